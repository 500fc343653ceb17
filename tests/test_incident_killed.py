"""`incident_response` killed in each of its tasks and run again: no second incident, page, channel or action."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred
from kubernetes.config import new_client_from_config

from sandbox.home import Home
from sandbox.inboxes.client import Inbox
from sandbox.servers.kubernetes import kubeconfig
from tests import alerts_inbox
from tests.dying import die_at
from tests.kubernetes_cluster import NAMESPACE, PACE, WEB, deployment, running_cluster, settled
from upkeep.incident import outside, record, remedies
from upkeep.incident.deeds import HelpedOperator, PutBackOperator, RemedyOperator
from upkeep.incident.operators import CallOperator, EvidenceOperator, IntakeOperator
from upkeep.ledger import Ledger
from upkeep.operators import PlatformOperator
from upkeep.platforms import Platform, platform
from upkeep.platforms.services import Deployment
from upkeep.report import storage
from upkeep.settings import settings

inboxes, inbox = alerts_inbox.inboxes, alerts_inbox.inbox

TASKS: dict[str, type[PlatformOperator]] = {
    "intake": IntakeOperator,
    "call": CallOperator,
    "evidence": EvidenceOperator,
    "remedy": RemedyOperator,
    "helped": HelpedOperator,
    "put_back": PutBackOperator,
}

PARAMS = {
    "severity": "Critical", "symptom": "slow", "description": "Checkout is slow", "action": "scale", "deployment": WEB,
    "replicas": 3, "minutes": 60,
}  # fmt: skip

STEPS: dict[str, tuple[str, Any, str, bool]] = {
    "declared, and not a word in its timeline": ("intake", record, "declare", True),
    "in PagerDuty, and not in Slack": ("call", outside, "page", True),
    "a channel, and nobody in it": ("call", outside, "topic", False),
    "all called, and the task not over": ("call", outside, "gather", True),
    "evidence gathered, and not kept": ("evidence", storage, "keep", False),
    "evidence kept, and not told": ("evidence", storage, "keep", True),
    "the remedy begun, and nothing done": ("remedy", remedies, "scale", False),
    "scaled, and not on record": ("remedy", remedies, "scale", True),
    "well again, and not on record": ("helped", record, "become", False),
    "mitigated, and the task not over": ("helped", record, "become", True),
    "put back, and not on record": ("put_back", remedies, "put_back", True),
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Home]:
    with running_cluster(**PACE) as home:
        settled(home)
        yield home


@pytest.fixture
def clustered() -> Platform:
    """StudySpot with nothing but its cluster: what is looked at after the remedy."""
    gone = dict.fromkeys(("http", "postgres", "redis", "kafka", "metrics", "hosts", "certificates"))
    return platform("studyspot").model_copy(update=gone)


class Response:
    """One run of the Dag: what its tasks returned, as the next ones read it."""

    def __init__(self, subject: Platform) -> None:
        self.subject = subject
        self.returned: dict[str, Any] = {}

    def task(self, name: str) -> None:
        ti = SimpleNamespace(
            dag_id="incident_response", run_id="r1", task_id=name, map_index=-1, try_number=1, log_url="",
            xcom_pull=lambda task_ids=None, key="": self.returned.get(task_ids), xcom_push=lambda **_: None,
        )  # fmt: skip
        settings_of = {"within": timedelta(seconds=60)} if name == "helped" else {}
        operator = TASKS[name](task_id=name, platform="studyspot", **settings_of)
        operator.__dict__["subject"] = self.subject
        context: Any = {"ti": ti, "params": PARAMS, "dag_run": SimpleNamespace(triggering_user_name="max")}
        self.returned[name] = operator.execute(context)

    def dies(self, name: str, owner: Any, function: str, after: bool) -> None:
        def killed() -> None:
            die_at(owner, function, after=after)
            self.task(name)

        child = multiprocessing.get_context("fork").Process(target=killed)
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL


ALWAYS = ("declared, and not a word in its timeline", "scaled, and not on record", "put back, and not on record")
"""What is tried at every change; the rest in the soak."""


@pytest.mark.parametrize(
    "step", [pytest.param(step, marks=() if step in ALWAYS else pytest.mark.soak) for step in STEPS]
)
def test_killed_in_each_task_and_run_again(
    cluster: Home, inbox: Inbox, ledger: Ledger, clustered: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:  # fmt: skip
    published = cluster.state()["connections"]["studyspot_kubernetes"]
    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_KUBERNETES", json.dumps(published))
    monkeypatch.setenv("UPKEEP_REPORTS", f"file://{tmp_path}")
    settings.cache_clear()
    client = new_client_from_config(str(kubeconfig(cluster, NAMESPACE)))
    response = Response(clustered)
    where, *death = STEPS[step]
    for name in TASKS:
        if name == "put_back":
            with pytest.raises(TaskDeferred):
                response.task(name)
            # Scaled again for less time: over at once.
            remedies.scale(client, NAMESPACE, Deployment(name=WEB, most=8), to=4, lasts=timedelta(0))
        if name == where:
            response.dies(name, *death)
        if (name, where) == ("put_back", "put_back"):
            with pytest.raises(AirflowSkipException, match="is put back already"):
                response.task(name)
            continue
        response.task(name)
        if name == "remedy":
            assert deployment(cluster, WEB)["spec"]["replicas"] == 3
    settled(cluster)
    assert deployment(cluster, WEB)["spec"]["replicas"] == 2
    assert [(row["id"], row["state"]) for row in ledger.rows("select * from incidents")] == [
        ("studyspot-1", "mitigated")
    ]
    assert len(inbox.incidents()) == 1
    (channel,) = [one for one in inbox.channels() if one["name"].startswith("inc-")]
    assert len(channel["messages"]) == 1
    (kept,) = tmp_path.rglob("evidence.json")
    assert json.loads(kept.read_text())["asked"]["deployment"] == WEB
    done = ledger.rows("select verb, count(*) as n from actions where state = 'done' group by verb order by verb")
    # Of what was put back and not written down, the line of who came after says so.
    back = [] if where == "put_back" else [{"verb": "put back", "n": 1}]
    assert done == [*back, {"verb": "scale", "n": 1}]
    assert ledger.rows("select 1 from actions where state = 'open'") == []
    assert record.tampered(ledger, "studyspot-1") is None
