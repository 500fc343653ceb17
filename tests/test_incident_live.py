"""`incident_response` in a whole Airflow: evidence, a yes, one action, and whether it helped."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote

import pytest

from sandbox import processes
from sandbox.servers.kubernetes import api as kubernetes
from tests.conftest import Live

pytestmark = pytest.mark.live

DAG = "incident_response"
WEB = "/apis/apps/v1/namespaces/studyspot/deployments/studyspot-web"


def start(live: Live, **params: Any) -> str:
    live.api.wait_for_dags(DAG)
    return live.api.trigger(DAG, {"platform": "studyspot", "description": 'a "quote", <!channel>', **params})


def states(live: Live, run_id: str) -> dict[str, str]:
    return {task["task_id"]: task["state"] for task in live.api.tasks(DAG, run_id)}


def answer(live: Live, run_id: str, option: str) -> dict[str, Any]:
    """What the person is asked, once they have answered."""
    processes.wait_until(
        lambda: states(live, run_id).get("approval") in ("awaiting_input", "failed"), 180, "a question"
    )
    # Whoever answers before the scheduler has heard that the task waits makes Airflow 3.3.2 fail it ("finished with
    # state success, but the task instance's state attribute is queued"): no person is that quick.
    time.sleep(8)
    path = f"/dags/{DAG}/dagRuns/{quote(run_id)}/taskInstances/approval/-1/hitlDetails"
    asked = dict(live.api("GET", path))
    live.api("PATCH", path, json={"chosen_options": [option], "params_input": {}})
    return asked


def restarted(live: Live) -> str:
    template = kubernetes(live.home).get(WEB)["spec"]["template"]
    return str((template["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/restartedAt", ""))


@pytest.mark.soak
def test_a_yes_restarts_once_and_a_no_nothing(live: Live) -> None:
    before = restarted(live)
    wanted = {"action": "restart", "deployment": "studyspot-web", "symptom": "errors", "severity": "Critical"}
    yes, no = start(live, **wanted), start(live, **wanted)
    asked = answer(live, no, "Reject")
    assert asked["subject"] == "studyspot: restart studyspot-web?"
    assert live.api.wait(DAG, no)["state"] == "success"
    assert {states(live, no)[name] for name in ("remedy", "helped", "put_back")} == {"skipped"}
    assert restarted(live) == before
    answer(live, yes, "Approve")
    assert live.api.wait(DAG, yes)["state"] == "success", live.api.log(DAG, yes, "helped")
    at = restarted(live)
    assert at != before
    with live.ledger() as ledger:
        (action,) = ledger.rows("select * from actions where capability = 'incident' and run_id = %s", [yes])
        (incident,) = ledger.rows("select * from incidents where platform = 'studyspot'")
        kinds = [row["kind"] for row in ledger.rows("select kind from timeline order by number")]
    assert (action["verb"], action["object"], action["state"]) == ("restart", "studyspot-web", "done")
    assert (incident["severity"], incident["state"], incident["title"]) == ("P0", "mitigated", 'a "quote", <!channel>')
    assert {"declared", "asked", "pagerduty", "slack", "evidence", "refused", "approved", "remedy"} <= set(kinds)
    assert [one["title"] for one in live.inbox.incidents()] == ['StudySpot P1 Critical: a "quote", <!channel>']
    (channel,) = [one for one in live.inbox.channels() if one["name"].startswith("inc-")]
    assert channel["name"] == "inc-studyspot-1-a-quote-channel"
    kept = [file for file in live.home.path.rglob("evidence.json") if yes[:30].replace(":", "-") in str(file)]
    evidence = json.loads(kept[0].read_text())
    assert evidence["deployments"]["studyspot-web"]["deployment"]["wanted"] == 2
    assert evidence["asked"]["description"] == 'a "quote", <!channel>'
    # The same run again, as somebody clears its task.
    live.api(
        "POST", f"/dags/{DAG}/clearTaskInstances",
        json={"dag_run_id": yes, "task_ids": ["remedy"], "only_failed": False, "dry_run": False},
    )  # fmt: skip
    processes.wait_until(lambda: states(live, yes)["remedy"] == "success", 60, "the remedy, again")
    assert "was restarted by this run already" in live.api.log(DAG, yes, "remedy", try_number=2)
    assert restarted(live) == at


def test_a_form_that_asks_for_too_much_is_refused_before_anything(live: Live) -> None:
    run_id = start(live, action="cache", prefixes="session:")
    assert live.api.wait(DAG, run_id)["state"] == "failed"
    said = live.api.log(DAG, run_id, "intake")
    assert "keys that begin with 'session:' may not be cleared" in said
    assert "HINT: the platform file allows cache:" in said
    assert states(live, run_id)["remedy"] == "upstream_failed"
