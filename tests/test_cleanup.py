"""Cleanup of a living cluster and of real directories: what goes, what stays, who asks, what a kill leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException
from kubernetes.config import new_client_from_config

from sandbox.faults import break_it, heal_it
from sandbox.home import REPOSITORY, Home
from sandbox.servers.kubernetes import api, forget_requests, kubeconfig, requests, writes
from tests.conftest import run
from tests.kubernetes_cluster import NAMESPACE, PACE, running_cluster, settled, until
from upkeep.cleanup import image_gc, jobs, temporary
from upkeep.cleanup.operators import CleanupOperator
from upkeep.errors import StrainError
from upkeep.findings import Outcome
from upkeep.health.kubernetes import Api, NotAnswered
from upkeep.ledger import Ledger
from upkeep.platforms.services import Hosts, Kubernetes
from upkeep.settings import settings
from upkeep.trees.deleting import DOOMED, Deleted, apply, delete, plan_rows
from upkeep.trees.looking import TreePlan, decode, opened
from upkeep.trees.usual import Usual

SECTION = Kubernetes(namespace=NAMESPACE)
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
DUE = {"job/report-old", "job/import-old-failed", "pod/debug-old", "pod/debug-old-failed"}
RUN = run(task="cleanup")
DAY = 86400


@pytest.fixture(scope="module")
def cluster() -> Iterator[Home]:
    with running_cluster(**PACE) as home:
        settled(home)
        yield home


@pytest.fixture
def home(cluster: Home) -> Iterator[Home]:
    """The cluster with its leftovers, as a new sandbox has them."""
    from sandbox.kubernetes import seeds

    there = {seen.partition("/")[2] for seen in names(cluster)}
    again = [each for each in seeds.objects() if each["kind"] in ("Job", "Pod") and mine(each) not in there]
    api(cluster).send("POST", "/_sandbox/objects", {"items": again})
    until(lambda: names(cluster) >= DUE, "the leftovers to be there")
    forget_requests(cluster)
    yield cluster
    for fault in api(cluster).get("/_sandbox/faults"):
        api(cluster).send("DELETE", f"/_sandbox/faults?name={fault['name']}")


def mine(seen: dict[str, Any]) -> str:
    return str(seen["metadata"]["name"]) if seen["metadata"]["namespace"] == NAMESPACE else ""


def names(home: Home) -> set[str]:
    """Of what is in the namespace and not on its way out: ``{"job/report-old", "pod/debug-old", …}``."""
    return {
        f"{kind}/{each['metadata']['name']}"
        for kind, path in (("job", JOBS), ("pod", PODS))
        for each in api(home).get(path)["items"]
        if "deletionTimestamp" not in each["metadata"]
    }


def client(home: Home, user: str = "upkeep", timeout_s: float = 3.0) -> Api:
    made = Api(new_client_from_config(str(kubeconfig(home, NAMESPACE, user=user))), timeout_s)
    made.deadline = time.monotonic() + 30
    return made


def planned(home: Home, **how: Any) -> jobs.JobsPlan:
    return jobs.plan(client(home), SECTION, datetime.now(UTC), **how)


def carry_out(home: Home, plan: jobs.JobsPlan, ledger: Ledger, user: str = "upkeep") -> jobs.Deleted:
    stored = ledger.plan(RUN, "cleanup", plan.rows())
    return jobs.apply(ledger, RUN, client(home, user), plan, stored)


# -- Jobs and Pods -------------------------------------------------------------------------------------


def test_only_what_is_finished_old_labelled_and_not_held_is_deleted_and_exactly_what_was_planned(
    home: Home, ledger: Ledger
) -> None:
    before = names(home)
    plan = planned(home)
    assert {item.object for item in plan.items} == DUE
    assert plan.stays == {"not old enough": 1, "held": 2}
    assert writes(home) == [], "a plan only reads"
    done = carry_out(home, plan, ledger)
    assert set(done.deleted) == DUE
    deleted = {each["path"].rpartition("/")[2] for each in writes(home) if each["method"] == "DELETE"}
    assert deleted == {name.partition("/")[2] for name in DUE}, "plan equals deed"
    # The Jobs' own Pods go with them, by the cluster's garbage collection.
    own = {name for name in before if name.startswith(("pod/report-old-", "pod/import-old-failed-"))}
    assert len(own) == 2
    until(lambda: names(home) == before - DUE - own, "the rest to stay, and the Jobs' Pods to go")
    outcome = jobs.outcome(plan, done, plan_id="p")
    assert (outcome.state, outcome.facts["deleted"], outcome.facts["due"]) == ("ok", 4, 4)
    assert planned(home).items == (), "the second run finds nothing to do"


def test_what_still_runs_is_never_deleted(home: Home) -> None:
    labels = {"upkeep/cleanup": "true"}
    spec = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "busybox", "command": ["sleep", "600"]}]}
    pod = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "runs", "labels": labels}, "spec": spec}
    api(home).send("POST", PODS, pod)
    job = {
        "kind": "Job",
        "apiVersion": "batch/v1",
        "metadata": {"name": "works", "labels": labels},
        "spec": {"template": {"metadata": {"labels": labels}, "spec": spec}},
    }
    api(home).send("POST", JOBS, job)
    try:
        now = datetime.fromtimestamp(time.time() + 90 * DAY, UTC)
        plan = jobs.plan(client(home), SECTION, now)
        assert {"job/works", "pod/runs"}.isdisjoint(item.object for item in plan.items)
        assert plan.stays["running"] == 2
    finally:
        api(home).send("DELETE", f"{PODS}/runs")
        api(home).send("DELETE", f"{JOBS}/works?propagationPolicy=Background")


def test_a_held_pod_holds_its_job_and_any_value_holds(home: Home) -> None:
    (pod,) = [name for name in names(home) if name.startswith("pod/report-old-")]
    path = f"{PODS}/{pod.partition('/')[2]}"
    api(home).merge(path, {"metadata": {"labels": {"upkeep/hold": "yes"}}})
    try:
        assert {item.object for item in planned(home).items} == DUE - {"job/report-old"}
    finally:
        api(home).merge(path, {"metadata": {"labels": {"upkeep/hold": None}}})


def test_what_changed_or_went_after_the_plan_is_left(home: Home, ledger: Ledger) -> None:
    plan = planned(home)
    api(home).merge(f"{JOBS}/report-old", {"metadata": {"annotations": {"note": "somebody needs it"}}})
    api(home).send("DELETE", f"{PODS}/debug-old")
    until(lambda: "pod/debug-old" not in names(home), "the Pod to go")
    done = carry_out(home, plan, ledger)
    assert done.left == {"changed": ["job/report-old"]}
    assert done.gone == ["pod/debug-old"]
    assert "job/report-old" in names(home)
    assert jobs.outcome(plan, done, plan_id="p").state == "ok"
    states = {row["object"]: row["reason"] for row in ledger.rows("select object, reason from actions")}
    assert (states["job/report-old"], states["pod/debug-old"]) == ("changed", "gone")


def test_a_missing_right_to_delete_is_a_finding(home: Home, ledger: Ledger) -> None:
    plan = planned(home)
    done = carry_out(home, plan, ledger, user="viewer")
    assert {name for found in done.left.values() for name in found} == DUE
    (finding,) = jobs.outcome(plan, done, plan_id="p").findings
    assert finding.summary.startswith("4 could not be deleted, not permitted: ")
    assert "Grant `delete` on jobs and pods in namespace studyspot." in finding.hint
    assert names(home) >= DUE


def test_more_than_half_of_a_namespace_asks_a_person(home: Home) -> None:
    (old,) = [each for each in api(home).get(PODS)["items"] if each["metadata"]["name"] == "debug-old"]
    many = []
    for number in range(80):
        metadata = {**old["metadata"], "name": f"flood-{number}"}
        many.append({**old, "metadata": {k: v for k, v in metadata.items() if k not in ("uid", "resourceVersion")}})
    api(home).send("POST", "/_sandbox/objects", {"items": [{"apiVersion": "v1", "kind": "Pod", **pod} for pod in many]})
    try:
        plan = planned(home)
        assert plan.due == 84
        assert plan.beyond == f"84 of {plan.objects} Jobs and Pods are due ({84 / plan.objects:.0%})"
        (finding,) = jobs.outcome(plan, None, plan_id="p").findings
        assert finding.severity == "P2"
        assert finding.summary.startswith("nothing was deleted: 84 of ")
        assert plan.rows()[0]["waits_for_a_yes"] is True
    finally:
        for number in range(80):
            api(home).send("DELETE", f"{PODS}/flood-{number}")
    assert jobs.usual([0, 4, 5, 0, 6, 7]) is None
    assert jobs.usual([0, 4, 5, 0, 6, 7, 90]) == 6


def test_an_api_that_hangs_is_not_waited_for(home: Home) -> None:
    api(home).send("POST", "/_sandbox/faults", {"name": "hang", "path": "/jobs", "hang": True})
    began = time.monotonic()
    with pytest.raises(NotAnswered, match="no answer within"):
        jobs.plan(client(home, timeout_s=0.5), SECTION, datetime.now(UTC))
    assert time.monotonic() - began < 3


DELETES = """
import sys
from datetime import UTC, datetime
from kubernetes.config import new_client_from_config
from upkeep.cleanup import jobs
from upkeep.health.kubernetes import Api
from upkeep.ledger import Ledger, Run
from upkeep.platforms.services import Kubernetes
conninfo, kubeconfig = sys.argv[1:]
api, run = Api(new_client_from_config(kubeconfig), 5.0), Run(platform="studyspot", dag_id="d", run_id="r", task_id="t")
plan = jobs.plan(api, Kubernetes(namespace="studyspot"), datetime.now(UTC))
with Ledger(conninfo) as ledger:
    jobs.apply(ledger, run, api, plan, ledger.plan(run, "cleanup", plan.rows()))
"""


@pytest.mark.parametrize(
    ("number", "done_already"), [(1, False), pytest.param(2, True, marks=pytest.mark.soak), (4, True)]
)
def test_killed_while_an_object_is_being_deleted_the_next_run_ends_in_the_right_state(
    home: Home, ledger: Ledger, ledger_conninfo: str, number: int, done_already: bool
) -> None:
    """Killed when the cluster has deleted and the caller does not know yet, or before it has deleted."""
    before = names(home)
    command = [sys.executable, "-c", DELETES, ledger_conninfo, str(kubeconfig(home, NAMESPACE))]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "plugins")}
    late = {"name": "late", "method": "DELETE", "path": "/namespaces/", "delay_s": 0.8}
    api(home).send("POST", "/_sandbox/faults", late)
    process = subprocess.Popen(command, env=env)
    until(lambda: api(home).get("/_sandbox/faults")[0]["used"] >= number, f"request {number} to arrive")
    # It cannot learn what becomes of its request.
    process.send_signal(signal.SIGSTOP)
    if done_already:
        until(lambda: len(deletions(home)) >= number, "the deed")
    states = [row["state"] for row in ledger.rows("select state from actions order by id")]
    process.kill()
    process.wait()
    assert states == ["done"] * (number - 1) + ["open"], "killed while a step was open"

    api(home).send("DELETE", "/_sandbox/faults?name=late")
    assert subprocess.run(command, env=env, timeout=60).returncode == 0
    gone = {*DUE, *(name for name in before if name.startswith(("pod/report-old-", "pod/import-old-failed-")))}
    until(lambda: names(home) == before - gone, "exactly what is due to be gone")
    assert "open" not in {row["state"] for row in ledger.rows("select state from actions")}
    until(lambda: len(deletions(home)) >= number, "the last late request to be over")


def deletions(home: Home) -> list[Any]:
    return [
        each for each in requests(home) if each["method"] == "DELETE" and f"/namespaces/{NAMESPACE}/" in each["path"]
    ]


# -- images --------------------------------------------------------------------------------------------


def images(home: Home, user: str = "upkeep") -> list[Outcome]:
    return image_gc.look(SECTION, client(home, user))


def test_a_kubelet_with_other_thresholds_is_a_finding_until_it_has_the_right_ones(home: Home) -> None:
    (healthy,) = images(home)
    assert healthy.state == "ok"
    assert {node: facts["high"] for node, facts in healthy.facts["nodes"].items()}["node-2"] == 0.85
    break_it(home, "studyspot_image_gc")
    try:
        (outcome,) = images(home)
        (finding,) = outcome.findings
        assert (finding.object, finding.severity) == ("node-2", "P3")
        assert finding.summary == "images are collected from 98% down to 95%, not 85% to 80%"
    finally:
        heal_it(home, "studyspot_image_gc")
    assert images(home)[0].state == "ok"


def test_an_image_file_system_above_the_threshold_is_a_finding_on_its_node(home: Home) -> None:
    api(home).send("PATCH", "/_sandbox/metrics", {"nodes": {"node-1": {"image_disk": 0.93}}})
    try:
        (finding,) = images(home)[0].findings
        assert (finding.object, finding.severity) == ("node-1", "P2")
        assert "is 93% full" in finding.summary
    finally:
        api(home).send("PATCH", "/_sandbox/metrics", {"nodes": {"node-1": {"image_disk": None}}})


def test_what_could_not_be_asked_is_unknown_and_not_fine(home: Home) -> None:
    (outcome,) = images(home, "viewer")
    assert (outcome.state, outcome.severity) == ("unknown", "P3")
    assert "needs `" in outcome.reason
    api(home).send("POST", "/_sandbox/faults", {"name": "one", "path": "node-2/proxy/configz", "answer": 503})
    seen = {outcome.object: outcome.state for outcome in images(home)}
    assert seen.pop("node-2") == "unknown"
    assert set(seen.values()) == {"ok"}


# -- temporary files -----------------------------------------------------------------------------------

HOSTS = Hosts.model_validate({"temporary": [{"path": "/tmp", "pattern": "studyspot-*", "older_than": "1d"}]})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """``/tmp`` of the host, as a worker sees it below ``tmp_path``."""
    made = tmp_path / "tmp"
    made.mkdir()
    return made


def leave(path: Path, days: float = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x" * 100)
    return aged(path, days)


def aged(path: Path, days: float = 3) -> Path:
    at = time.time() - days * DAY
    os.utime(path, (at, at), follow_symlinks=False)
    return path


def look(tmp_path: Path, **how: Any) -> TreePlan:
    (made,) = temporary.plan(HOSTS, tmp_path, datetime.now(UTC), **how)
    return made


def tidy(tmp_path: Path, plan: TreePlan) -> Deleted:
    with opened(tmp_path, plan.tree) as top:
        return delete(top, plan.items)


def said(plan: TreePlan, done: Deleted | None) -> Outcome:
    return temporary.outcome(HOSTS.temporary[0], plan, done, plan_id="p")


def test_our_old_temporary_files_and_directories_go_and_nothing_else(tmp_path: Path, place: Path) -> None:
    leave(place / "studyspot-a")
    leave(place / "studyspot-new", 0.5)
    leave(place / "somebody-elses")
    leave(place / "deeper/studyspot-b")
    leave(place / "studyspot-d/x/y")
    (place / "studyspot-d/empty").mkdir()
    (place / "studyspot-d/out").symlink_to(leave(tmp_path / "precious/file").parent)
    for path in ("studyspot-d/empty", "studyspot-d/out", "studyspot-d/x", "studyspot-d"):
        aged(place / path)
    leave(place / "studyspot-young/old")
    plan = look(tmp_path)
    assert {decode(item.path): item.kind for item in plan.items} == {"studyspot-a": "file", "studyspot-d": "directory"}
    assert plan.stays == {"not old enough": 2}, "a directory is as young as the youngest thing in it"
    done = tidy(tmp_path, plan)
    left = {path.name for path in place.iterdir()}
    assert left == {"studyspot-new", "somebody-elses", "deeper", "studyspot-young"}
    assert (tmp_path / "precious/file").exists(), "the link went, not what it points to"
    assert done.files == 6
    assert done.bytes > 0
    outcome = said(plan, done)
    assert (outcome.state, outcome.object, outcome.facts["deleted_files"]) == ("ok", "/tmp/studyspot-*", 6)
    assert look(tmp_path).items == ()


def test_links_sockets_and_what_is_in_use_or_has_changed_stay(tmp_path: Path, place: Path) -> None:
    aged_link = place / "studyspot-link"
    aged_link.symlink_to("/etc")
    aged(aged_link)
    os.mkfifo(place / "studyspot-pipe")
    aged(place / "studyspot-pipe")
    leave(place / "studyspot-open")
    leave(place / "studyspot-d/held")
    aged(place / "studyspot-d")
    leave(place / "studyspot-e/old")
    aged(place / "studyspot-e")
    with (place / "studyspot-open").open(), (place / "studyspot-d/held").open():
        plan = look(tmp_path)
        assert len(plan.items) == 3
        (place / "studyspot-e/news").write_text("x")
        done = tidy(tmp_path, plan)
    assert done.left == {"in use": 2, "changed": 1}
    assert plan.stays == {"symbolic link": 1, "special file": 1}
    assert len(list(place.iterdir())) == 5


def test_a_directory_swapped_for_a_link_after_the_plan_is_not_followed(tmp_path: Path, place: Path) -> None:
    leave(place / "studyspot-d/file")
    aged(place / "studyspot-d")
    plan = look(tmp_path)
    precious = leave(tmp_path / "precious/file")
    (place / "studyspot-d").rename(tmp_path / "moved")
    (place / "studyspot-d").symlink_to(precious.parent)
    assert tidy(tmp_path, plan).left == {"changed": 1}
    assert precious.exists()
    assert (tmp_path / "moved/file").exists()


def test_more_than_usual_asks_a_person(tmp_path: Path, place: Path) -> None:
    for number in range(40):
        leave(place / f"studyspot-{number}")
    assert look(tmp_path).beyond == "", "all of them old is what temporary files are for"
    usual = {"/tmp/studyspot-*": Usual(files=10, bytes=10**9)}
    plan = look(tmp_path, usual=usual)
    assert plan.beyond == "40 files are due, usual are 10"
    assert said(plan, None).findings[0].severity == "P2"


def test_a_directory_half_deleted_when_the_process_was_killed_is_finished(
    tmp_path: Path, place: Path, ledger: Ledger, ledger_conninfo: str
) -> None:
    for number in range(3000):
        leave(place / f"studyspot-d/{number % 5}/{number}")
    for directory in [*(place / "studyspot-d").iterdir(), place / "studyspot-d"]:
        aged(directory)
    kept = leave(place / "studyspot-new", 0.1)
    script = (
        "import sys\nfrom datetime import UTC, datetime\nfrom pathlib import Path\n"
        "from upkeep.cleanup import temporary\nfrom upkeep.ledger import Ledger, Run\n"
        "from upkeep.platforms.services import Hosts\nfrom upkeep.trees.deleting import apply, plan_rows\n"
        "root, run = Path(sys.argv[2]), Run(platform='studyspot', dag_id='d', run_id='r', task_id='cleanup')\n"
        "(plan,) = temporary.plan(Hosts.model_validate_json(sys.argv[3]), root, datetime.now(UTC))\n"
        "with Ledger(sys.argv[1]) as ledger:\n"
        "    apply(ledger, run, 'cleanup', root, plan, ledger.plan(run, 'cleanup', plan_rows([plan])))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, ledger_conninfo, tmp_path, HOSTS.model_dump_json()],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "plugins")},
    )
    doomed = place / f"{DOOMED}studyspot-d"
    deadline = time.monotonic() + 30
    while not doomed.exists():
        assert time.monotonic() < deadline
    process.kill()
    process.wait()
    assert [row["state"] for row in ledger.rows("select state from actions")] == ["open"], (
        "killed while a step was open"
    )
    assert doomed.exists()
    plan = look(tmp_path)
    assert [decode(item.path) for item in plan.items] == [doomed.name], "due at once, however young it is by now"
    apply(ledger, RUN, "cleanup", tmp_path, plan, ledger.plan(RUN, "cleanup", plan_rows([plan])))
    assert list(place.iterdir()) == [kept]
    assert [row["state"] for row in ledger.rows("select state from actions order by id")] == ["abandoned", "done"]


def test_a_missing_temporary_tree_is_a_finding(tmp_path: Path) -> None:
    (finding,) = said(look(tmp_path), None).findings
    assert finding.summary == f"there is no /tmp below {tmp_path}"
    assert "hosts.temporary" in finding.hint


# -- the task ------------------------------------------------------------------------------------------


@pytest.fixture
def platform(
    home: Home, ledger: Ledger, tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A platform with the cluster, one temporary tree, and Kafka without a connection."""
    content = {
        "name": "studyspot",
        "title": "StudySpot",
        "severity": {
            "levels": {f"P{rank}": {"name": f"P{rank}", "respond": "15m", "resolve": "2h"} for rank in range(4)},
            # Nothing is sent from here, and only what is worse than anything here fails the task.
            "failing": "P0",
            "paging": "P0",
            "notify": "P0",
        },
        "kubernetes": {"namespace": NAMESPACE},
        "hosts": HOSTS.model_dump(mode="json", exclude={"logs"}),
        "kafka": {"topics": []},
    }
    (tmp_path / "platforms").mkdir()
    file = tmp_path / "platforms/studyspot.yaml"
    file.write_text(yaml.safe_dump(content))
    monkeypatch.setenv(
        "AIRFLOW_CONN_STUDYSPOT_KUBERNETES", json.dumps(home.state()["connections"]["studyspot_kubernetes"])
    )
    monkeypatch.setenv("UPKEEP_PLATFORMS", str(file.parent))
    monkeypatch.setenv("UPKEEP_HOST_ROOT", str(tmp_path))
    monkeypatch.setenv("UPKEEP_SPOOL", str(tmp_path / "spool"))
    settings.cache_clear()
    leave(place / "studyspot-old")
    yield file
    settings.cache_clear()


def execute(unusable: Any = None, **arguments: Any) -> Any:
    """The task, run as a worker would."""
    ti = SimpleNamespace(
        dag_id="d", run_id="r", task_id="cleanup", map_index=-1, try_number=1, log_url="",
        xcom_pull=lambda task_ids, key: unusable,
    )  # fmt: skip
    return CleanupOperator(task_id="cleanup", platform="studyspot", **arguments).execute({"ti": ti})  # type: ignore[typeddict-item]


def states(ledger: Ledger) -> dict[str, str]:
    return {
        row["check_name"]: row["state"] for row in ledger.rows("select check_name, state from outcomes order by id")
    }


def test_each_part_does_its_work_whatever_happens_to_the_others(
    home: Home, platform: Path, place: Path, ledger: Ledger
) -> None:
    execute()
    assert states(ledger) == {
        "jobs": "ok", "image_gc": "ok", "temporary_files": "ok", "kafka_retention": "unknown",
    }  # fmt: skip
    (missing,) = ledger.rows("select reason from outcomes where check_name = 'kafka_retention'")
    assert "no connection 'studyspot_kafka'" in missing["reason"]
    assert DUE.isdisjoint(names(home))
    assert list(place.iterdir()) == []
    objects = {row["object"] for row in ledger.rows("select object from actions where state = 'done'")}
    assert objects == {*DUE, "/tmp"}


def test_a_dry_run_writes_nothing_and_plans_the_same(home: Home, platform: Path, place: Path, ledger: Ledger) -> None:
    execute(dry_run="true")
    assert writes(home) == []
    assert names(home) >= DUE
    assert (place / "studyspot-old").exists()
    assert ledger.rows("select * from actions") == []
    execute(dry_run="false")
    plans = ledger.rows("select digest, dry_run from plans order by created_at")
    assert [plan["dry_run"] for plan in plans] == [True, True, False, False]
    assert {plan["digest"] for plan in plans[:2]} == {plan["digest"] for plan in plans[2:]}


def test_what_health_found_unusable_is_not_tried_and_alerts_nobody(
    home: Home, platform: Path, place: Path, ledger: Ledger
) -> None:
    execute(unusable={"kubernetes": "kubernetes_api: connection refused", "kafka": "kafka_brokers: no answer"})
    assert requests(home) == []
    explained = {
        row["check_name"]: row["explained_by"]
        for row in ledger.rows("select check_name, explained_by from outcomes where state = 'unknown'")
    }
    assert explained == {
        "jobs": "kubernetes_api", "image_gc": "kubernetes_api", "kafka_retention": "kafka_brokers",
    }  # fmt: skip
    assert list(place.iterdir()) == []
    assert ledger.rows("select * from findings") == []


def test_an_unreachable_cluster_is_unknown_and_red(
    home: Home, platform: Path, place: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = yaml.safe_load(platform.read_text())
    content["severity"]["failing"] = "P2"
    platform.write_text(yaml.safe_dump(content))
    config = yaml.safe_load(kubeconfig(home, NAMESPACE).read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    elsewhere = platform.with_name("elsewhere.kubeconfig")
    elsewhere.write_text(yaml.safe_dump(config))
    extra = {"kube_config_path": str(elsewhere), "namespace": NAMESPACE}
    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_KUBERNETES", json.dumps({"conn_type": "kubernetes", "extra": extra}))
    with pytest.raises(AirflowFailException, match="P2 jobs: could not look"):
        execute()
    assert states(ledger)["temporary_files"] == "ok"
    assert list(place.iterdir()) == []


def test_a_second_run_at_the_same_time_does_nothing(home: Home, platform: Path, ledger: Ledger) -> None:
    with ledger.exclusive("studyspot/cleanup"), pytest.raises(StrainError, match="another run is cleaning up"):
        execute()
    assert requests(home) == []
