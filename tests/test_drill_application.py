"""An application's Pods lost on purpose: waited for, probed, its spec to the letter as before, even after SIGKILL."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kubernetes.client import ApiClient

from sandbox.home import REPOSITORY, Home
from sandbox.servers.kubernetes import api, kubeconfig
from tests.conftest import run
from tests.incident_cluster import SCALERS, client, cluster, patch, scripted, writes
from tests.kubernetes_cluster import API, NAMESPACE, WEB, deployment
from upkeep.drill import janitor, record
from upkeep.drill.application import Conduct, Place, Watch, put_back, rehearse, undo, unhealthy
from upkeep.drill.record import Drill
from upkeep.incident.workloads import look
from upkeep.ledger import Ledger
from upkeep.platforms.services import Deployment

__all__ = ["client", "cluster"]

BOUNDS = (
    Deployment(name=API, container="app", least=2, most=5),
    Deployment(name=WEB, container="app", least=1, most=3),
)
CONDUCT = Conduct(gap_s=30)
PLACE = {"namespace": NAMESPACE, "deployments": BOUNDS}


def begin(ledger: Ledger) -> Drill:
    return record.begin(ledger, run(), "application", "pods", "staging", rto_s=60, rpo_s=60)


def spec(cluster: Home) -> list[Any]:
    """All that a drill might change."""
    scaler = api(cluster).get(f"{SCALERS}/{API}")["spec"]
    return [deployment(cluster, API)["spec"], deployment(cluster, WEB)["spec"], scaler]


def test_all_pods_are_lost_and_all_is_as_before(client: ApiClient, cluster: Home, ledger: Ledger) -> None:
    before = spec(cluster)
    drill = begin(ledger)
    rehearse(drill, Place(client, **PLACE, everything=True), CONDUCT)
    assert drill.passed, (drill.reason, drill.verdicts, drill.facts)
    assert spec(cluster) == before
    assert drill.facts["lost"] == {API: 3, WEB: 2}
    assert drill.rto_s == max(drill.facts["times"].values()) > 0
    names = [phase.name for phase in drill.phases]
    assert names == [
        "steady", f"lose {API}", f"up {API}", f"down {API}", f"lose {WEB}", f"up {WEB}", f"down {WEB}", "put back",
    ]  # fmt: skip
    assert drill.facts["probes"]["looks"] > 0
    (row,) = ledger.rows("select undo from drills")
    assert row["undo"] == []


def test_in_production_one_pod_is_evicted_as_its_budget_allows(
    client: ApiClient, cluster: Home, ledger: Ledger
) -> None:
    before = spec(cluster)
    drill = begin(ledger)
    rehearse(drill, Place(client, NAMESPACE, BOUNDS[1:], everything=False), CONDUCT)
    assert drill.passed, drill.reason
    assert drill.facts["lost"] == {WEB: 1}
    assert spec(cluster) == before


def test_probes_that_fail_break_it_off_and_put_back(client: ApiClient, cluster: Home, ledger: Ledger) -> None:
    before = spec(cluster)
    drill = begin(ledger)
    seen: list[int] = []

    def endpoint() -> str:
        seen.append(1)
        return "answered 500"

    watch_fast = {f"endpoint {number}": endpoint for number in range(30)}
    rehearse(drill, Place(client, NAMESPACE, BOUNDS[1:], everything=True), Conduct(gap_s=30, probes=watch_fast))
    assert drill.verdicts["act"] == "failed"
    assert "probes failed outside the expected gap" in drill.reason
    assert drill.verdicts["cleanup"] == "passed"
    assert spec(cluster) == before


def test_a_share_is_judged_outside_the_gap_alone() -> None:
    watch = Watch({})
    watch.seen = [(float(at), "p", "down" if 10 <= at < 30 else "") for at in range(60)]
    assert "20 of 60 probes failed" in watch.breach(0.05)
    watch.gaps.append([9.0, 31.0])
    assert watch.breach(0.05) == ""
    assert Watch({}, seen=[(1.0, "p", "down")]).breach(0.05) == "", "one look says nothing about a share"


def test_what_is_not_whole_or_not_ours_is_not_touched(client: ApiClient, cluster: Home, ledger: Ledger) -> None:
    place = Place(client, NAMESPACE, BOUNDS, everything=True)
    assert unhealthy(place) == ""
    patch(cluster, API, {"metadata": {"labels": {"argocd.argoproj.io/instance": "shop"}}})
    asked = len(writes(cluster))
    drill = begin(ledger)
    rehearse(drill, place, CONDUCT)
    assert (drill.verdicts["act"], drill.verdicts["cleanup"]) == ("unknown", "passed")
    assert "belongs to Argo CD" in drill.reason
    assert len(writes(cluster)) == asked
    drill = begin(ledger)
    rehearse(drill, Place(client, "monitoring", BOUNDS, everything=True), CONDUCT)
    assert "none of the platform's deployments is in monitoring" in drill.reason


def test_what_somebody_changed_since_stays(client: ApiClient, cluster: Home) -> None:
    entry = undo(look(client, NAMESPACE, WEB), BOUNDS[1])
    patch(cluster, WEB, {"spec": {"replicas": 7}})
    assert put_back(client, entry, within_s=30).endswith("somebody made it 7 replicas; it stays so")
    assert deployment(cluster, WEB)["spec"]["replicas"] == 7
    patch(cluster, WEB, {"spec": {"replicas": 1}})
    assert put_back(client, entry, within_s=30) == ""
    assert deployment(cluster, WEB)["spec"]["replicas"] == 2


def test_an_api_that_is_away_leaves_the_undo_to_the_janitor(client: ApiClient, cluster: Home, ledger: Ledger) -> None:
    entry = undo(look(client, NAMESPACE, WEB), BOUNDS[1])
    drill = begin(ledger)
    drill.remember(entry)
    patch(cluster, WEB, {"spec": {"replicas": 3}})
    hands = janitor.Hands(lambda: client, no_driver)
    with scripted(cluster, method="PATCH", path=f"/deployments/{WEB}", answer=403):
        (settled,) = janitor.put_back(ledger, "studyspot", hands, within_s=5)
    assert settled.trouble.startswith("deployment: ")
    (settled,) = janitor.put_back(ledger, "studyspot", hands, within_s=30)
    assert (settled.trouble, settled.done) == ("", (f"{WEB} has 2 replicas again",))
    assert janitor.put_back(ledger, "studyspot", hands) == []
    assert deployment(cluster, WEB)["spec"]["replicas"] == 2


@contextmanager
def alone(ledger: Ledger) -> Iterator[None]:
    """A dead process holds nothing, as soon as the server has seen that it is dead."""
    while True:
        with ledger.exclusive(record.lock("studyspot")) as mine:
            if mine:
                yield
                return
        time.sleep(0.1)


def no_driver() -> Any:
    raise AssertionError("no pair was touched")


WORKS = """
import json, os, signal, sys
from kubernetes.config import new_client_from_config
from upkeep.drill import application, record
from upkeep.ledger import Ledger, Run
from upkeep.platforms.services import Deployment

said = json.loads(sys.argv[1])
original = record.Drill.watch
def watch(self, name):
    original(self, name)
    if name == said["dies"]:
        original_phase = record.Drill.timed
        record.Drill.timed = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
record.Drill.watch = watch
run = Run(platform="studyspot", dag_id="d", run_id="r", task_id="t")
with Ledger(said["ledger"]) as ledger, ledger.exclusive(record.lock("studyspot")) as mine:
    assert mine
    drill = record.begin(ledger, run, "application", "pods", "staging", rto_s=60, rpo_s=60)
    bounds = [Deployment(**one) for one in said["bounds"]]
    place = application.Place(new_client_from_config(said["kubeconfig"]), said["namespace"], bounds, everything=True)
    application.rehearse(drill, place, application.Conduct(gap_s=30))
"""


def soak(phase: str) -> Any:
    return pytest.param(phase, marks=pytest.mark.soak)


@pytest.mark.parametrize(
    "phase",
    [soak("steady"), soak(f"lose {API}"), f"up {API}", soak(f"down {API}"), soak(f"up {WEB}"), soak(f"down {WEB}")],
)
def test_killed_at_the_end_of_a_phase_the_janitor_puts_all_back(
    client: ApiClient, cluster: Home, ledger: Ledger, ledger_conninfo: str, phase: str
) -> None:
    before = spec(cluster)
    said = {
        "ledger": ledger_conninfo, "dies": phase, "namespace": NAMESPACE,
        "kubeconfig": str(kubeconfig(cluster, NAMESPACE)), "bounds": [one.model_dump(mode="json") for one in BOUNDS],
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", WORKS, json.dumps(said)], cwd=REPOSITORY,
        env={"PYTHONPATH": "plugins", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    (row,) = ledger.rows("select * from drills")
    assert (row["ended_at"], row["phase"]) == (None, phase), "it was open when it was killed"
    with alone(ledger):
        (settled,) = janitor.put_back(ledger, "studyspot", janitor.Hands(lambda: client, no_driver), within_s=60)
    assert settled.trouble == ""
    assert spec(cluster) == before
    (row,) = ledger.rows("select * from drills")
    assert (row["act_verdict"], row["cleanup_verdict"], row["undo"]) == ("stopped", "passed", [])
    assert row["reason"] == f"its process died in phase {phase}"
