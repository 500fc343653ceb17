"""Kubernetes: every check sees its fault in a living cluster, with the numbers, and sees it gone."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from kubernetes.client import ApiClient, Configuration
from kubernetes.config import new_client_from_config, new_client_from_config_dict

from sandbox.faults import break_it, heal_it
from sandbox.home import Home
from sandbox.kubernetes import clock
from sandbox.servers.kubernetes import age, api, kubeconfig
from tests.kubernetes_cluster import API, NAMESPACE, PACE, WEB, running_cluster, set_image, settled, until
from upkeep.findings import Finding, Outcome, Severity
from upkeep.health import kubernetes
from upkeep.health.kubernetes_workloads import owner
from upkeep.platforms.base import Threshold
from upkeep.platforms.services import Deployment, Kubernetes

STUDYSPOT = Kubernetes(
    namespace=NAMESPACE,
    deployments=(
        Deployment(name=API, least=2, severity=Severity.P1),
        Deployment(name=WEB, least=1, severity=Severity.P1),
    ),
)
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with running_cluster(**PACE) as home:
        settled(home)
        yield home


def look(home: Home, section: Kubernetes = STUDYSPOT, user: str = "upkeep", **options: Any) -> dict[str, Outcome]:
    client = new_client_from_config(str(kubeconfig(home, NAMESPACE, user=user)))
    seen = {outcome.check: outcome for outcome in kubernetes.look(section, client, **options)}
    for outcome in seen.values():
        json.dumps(dict(outcome.facts))
    return seen


def only(outcome: Outcome) -> Finding:
    assert len(outcome.findings) == 1, outcome
    return outcome.findings[0]


def found(home: Home, check: str, object: str, section: Kubernetes = STUDYSPOT) -> Finding:
    """The finding, as soon as the cluster shows it."""

    def there() -> Finding | None:
        outcome = look(home, section)[check]
        return {finding.object: finding for finding in outcome.findings}.get(object)

    finding = until(there, f"{check}/{object}", timeout_s=15)
    assert isinstance(finding, Finding)
    return finding


def assert_none(home: Home, object: str) -> None:
    """It was looked at, and no pod of ``object`` is a finding."""
    outcome = look(home)["pods"]
    assert outcome.state != "unknown", outcome
    assert object not in {finding.object for finding in outcome.findings}


def assert_well(home: Home) -> None:
    def well() -> bool:
        return all(outcome.state == "ok" for outcome in look(home).values())

    until(well, f"everything to be well: {look(home)}", timeout_s=20)


@contextmanager
def broken(home: Home, fault: str) -> Iterator[None]:
    break_it(home, fault)
    try:
        yield
    finally:
        heal_it(home, fault)


def test_a_healthy_cluster_is_ok_with_its_numbers(home: Home) -> None:
    """Leftovers of finished and long failed Jobs are no findings."""
    seen = look(home)
    assert list(seen) == ["kubernetes_api", "pods", "deployments", "scaling", "services", "nodes", "usage"]
    assert_well(home)
    seen = look(home)
    assert seen["kubernetes_api"].facts["version"].startswith("v1.")
    assert seen["pods"].facts["pods"] > 5
    assert seen["services"].facts["services"] == 2
    assert set(seen["usage"].facts["nodes"]) == {"node-1/cpu", "node-1/memory", "node-2/cpu", "node-2/memory"}
    assert 0 < seen["usage"].facts["containers"]["studyspot-api/app/cpu"] < 0.8


# -- the API -------------------------------------------------------------------------------------------


def test_an_api_that_is_down_is_one_finding_and_the_rest_is_explained_by_it(home: Home) -> None:
    with broken(home, "kubernetes_down"):
        seen = look(home)
        assert only(seen["kubernetes_api"]).summary == "the API does not answer: the connection was refused"
        assert only(seen["kubernetes_api"]).severity == Severity.P1
        for check in ("pods", "deployments", "scaling", "services", "nodes", "usage"):
            assert (seen[check].state, seen[check].explained_by) == ("unknown", "kubernetes_api")
    assert_well(home)


def test_an_api_that_hangs_is_bounded(home: Home) -> None:
    with broken(home, "kubernetes_hangs"):
        began = time.monotonic()
        seen = look(home, timeout_s=0.8)
        assert time.monotonic() - began < 4
        assert only(seen["kubernetes_api"]).summary.startswith("the API does not answer: no answer within ")
    assert_well(home)


def test_an_address_that_accepts_and_says_nothing_is_bounded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        configuration = Configuration()
        configuration.host = f"https://127.0.0.1:{mute.getsockname()[1]}"
        began = time.monotonic()
        outcomes = kubernetes.look(STUDYSPOT, ApiClient(configuration), timeout_s=0.5)
        assert time.monotonic() - began < 4
    assert outcomes[0].state == "finding"


def test_a_refused_token_is_found_and_names_the_connection(home: Home) -> None:
    config = yaml.safe_load(kubeconfig(home, NAMESPACE).read_text())
    config["users"][0]["user"]["token"] = "wrong"
    client = new_client_from_config_dict(config)
    outcomes = kubernetes.look(STUDYSPOT, client, conn_id="studyspot_kubernetes")
    finding = only(outcomes[0])
    assert finding.summary == "the API does not answer: the API refuses who we are (401 Unauthorized)"
    assert "`studyspot_kubernetes`" in finding.hint


def test_a_namespace_that_is_not_there_is_found_and_not_taken_for_an_empty_one(home: Home) -> None:
    section = STUDYSPOT.model_copy(update={"namespace": "studyspott"})
    seen = look(home, section)
    assert only(seen["kubernetes_api"]).summary == "there is no namespace studyspott"
    assert seen["pods"].explained_by == "kubernetes_api"


def test_what_may_not_be_read_is_unknown_and_says_what_to_grant(home: Home) -> None:
    seen = look(home, user="viewer")
    assert seen["services"].state == "unknown"
    assert "(403 Forbidden); grant get and list" in seen["services"].reason
    assert seen["pods"].state == "ok"


# -- pods ----------------------------------------------------------------------------------------------


def test_a_crash_loop_is_found_at_the_owner_with_the_deployments_severity(home: Home) -> None:
    with broken(home, "studyspot_pod_crashloop"):
        finding = found(home, "pods", API)
        assert "CrashLoopBackOff after" in finding.summary
        assert finding.severity == Severity.P1
        assert finding.facts["pods"][0].startswith("studyspot-api-")
        assert finding.facts["pods"][0] not in finding.object
    assert_well(home)


def test_an_image_that_does_not_exist_is_found(home: Home) -> None:
    with broken(home, "studyspot_image_missing"):
        finding = found(home, "pods", WEB)
        assert any(reason in finding.summary for reason in ("ImagePullBackOff", "ErrImagePull"))
    assert_well(home)


def test_a_pod_that_runs_but_is_not_ready_is_found_after_its_time(home: Home) -> None:
    with broken(home, "studyspot_pod_unready"):
        finding = found(home, "pods", API)
        assert "Running but not ready for more than 5m" in finding.summary
        patient = STUDYSPOT.model_copy(update={"unready": timedelta(hours=1)})
        assert look(home, patient)["pods"].state == "ok"
    assert_well(home)


def test_pods_of_nobody_in_the_file_are_found_with_the_checks_own_severity(home: Home) -> None:
    with pod(home, "lonely", {"phase": "Pending", "conditions": [unschedulable(minutes=10)]}):
        finding = found(home, "pods", "lonely")
        assert finding.summary == "1 of 1 pods: Unschedulable: 0/2 nodes are available: insufficient memory."
        assert finding.severity == Severity.P2
    assert_well(home)


def test_a_pod_that_waits_for_the_scheduler_since_seconds_is_fine(home: Home) -> None:
    with pod(home, "young", {"phase": "Pending", "conditions": [unschedulable(minutes=0)]}, born_s=20):
        assert_none(home, "young")


@pytest.mark.parametrize(
    ("minutes", "reason", "said"),
    [
        (10, "OOMKilled", "1 of 1 pods: OOMKilled within the last hour (container main)"),
        (10, "Error", "1 of 1 pods: 9 restarts in 1 h (container main)"),
        (70, "OOMKilled", ""),
        (70, "Error", ""),
    ],
)
def test_what_ended_within_the_last_hour_counts(home: Home, minutes: int, reason: str, said: str) -> None:
    status = running(restarts=9, last={"reason": reason, "exitCode": 137, "finishedAt": clock.ago(minutes * 60)})
    with pod(home, "restless", status):
        if said:
            assert found(home, "pods", "restless").summary == said
        else:
            assert_none(home, "restless")


def test_many_restarts_in_a_long_life_are_fine(home: Home) -> None:
    status = running(restarts=9, last={"reason": "Error", "exitCode": 1, "finishedAt": clock.ago(60)})
    with pod(home, "old", status, born_s=86_400):
        assert_none(home, "old")


def test_an_evicted_pod_is_a_p3_finding_and_a_completed_one_is_none(home: Home) -> None:
    evicted = {"phase": "Failed", "reason": "Evicted", "startTime": clock.ago(600)}
    with pod(home, "gone", evicted), pod(home, "done", {"phase": "Succeeded", "startTime": clock.ago(600)}):
        finding = found(home, "pods", "gone")
        assert finding.summary == "1 of 1 pods: Evicted"
        assert finding.severity == Severity.P3
        assert [each.object for each in look(home)["pods"].findings] == ["gone"]


def test_a_pod_being_deleted_has_its_grace_and_is_stuck_after_it(home: Home) -> None:
    """Judged at later moments: the timestamp says when the grace ends."""
    status = running()
    status["conditions"] = [{"type": "Ready", "status": "False", "lastTransitionTime": clock.ago(3600)}]
    with pod(home, "leaving", status, finalizers=["example.com/wait"]):
        assert found(home, "pods", "leaving").summary.endswith("not ready for more than 5m")
        api(home).send("DELETE", f"{PODS}/leaving?gracePeriodSeconds=60")
        until(lambda: "deletionTimestamp" in api(home).get(f"{PODS}/leaving")["metadata"], "the deletion")
        now = datetime.now(UTC)
        assert look(home, now=now + timedelta(seconds=90))["pods"].state == "ok"
        later = look(home, now=now + timedelta(minutes=7))["pods"]
        stuck = {finding.object: finding for finding in later.findings}["leaving"]
        assert stuck.summary == "1 of 1 pods: still terminating 5m after its grace ended"
        assert stuck.severity == Severity.P3


@pytest.mark.parametrize(
    ("reference", "labels", "name"),
    [
        ({"kind": "ReplicaSet", "name": "web-7d9f6c-x", "controller": True}, {"pod-template-hash": "7d9f6c-x"}, "web"),
        ({"kind": "StatefulSet", "name": "db", "controller": True}, {}, "db"),
        ({"kind": "Job", "name": "nightly-29384710", "controller": True}, {}, "nightly"),
        ({"kind": "Job", "name": "import-2026", "controller": True}, {}, "import-2026"),
        ({"kind": "Node", "name": "node-1"}, {}, "kube-proxy-node-1"),
    ],
)
def test_findings_are_called_after_what_stays(reference: dict[str, Any], labels: dict[str, str], name: str) -> None:
    metadata = {"name": "kube-proxy-node-1", "labels": labels, "ownerReferences": [reference]}
    assert owner({"metadata": metadata}) == name


# -- deployments and services --------------------------------------------------------------------------


def test_a_deployment_that_is_not_there_is_found(home: Home) -> None:
    section = STUDYSPOT.model_copy(update={"deployments": (Deployment(name="seats", severity=Severity.P0),)})
    finding = only(look(home, section)["deployments"])
    assert (finding.object, finding.summary, finding.severity) == ("seats", "there is no deployment seats", Severity.P0)


def test_a_deployment_below_its_least_is_found_and_heals(home: Home) -> None:
    api(home).merge(f"{DEPLOYMENTS}/{WEB}", {"spec": {"replicas": 0}})
    try:
        finding = found(home, "deployments", WEB)
        assert finding.summary == f"{WEB}: 0 of 0 replicas are available, 1 is the least"
        assert finding.severity == Severity.P1
        service = found(home, "services", WEB)
        assert service.summary.startswith(f"service {WEB} has no ready endpoint (")
    finally:
        api(home).merge(f"{DEPLOYMENTS}/{WEB}", {"spec": {"replicas": 2}})
    assert_well(home)


def test_a_rollout_that_is_stuck_is_found_although_the_old_pods_serve(home: Home) -> None:
    path = f"{DEPLOYMENTS}/{WEB}"
    api(home).merge(path, {"spec": {"progressDeadlineSeconds": 1}})
    set_image(home, WEB, "broken")
    try:
        finding = found(home, "deployments", WEB)
        assert finding.summary == f"{WEB}: its rollout is stuck: 1 of 2 replicas are updated"
        assert finding.facts["available"] == 2
    finally:
        set_image(home, WEB, "1.4.2")
        api(home).merge(path, {"spec": {"progressDeadlineSeconds": 600}})
    assert_well(home)


def test_a_controller_that_does_not_look_is_found(home: Home) -> None:
    """Whoever owns the status says it has seen an older spec, and goes on saying so."""
    path = f"{DEPLOYMENTS}/{API}"
    seen = api(home).get(path)["status"]["observedGeneration"]
    api(home).send("PATCH", "/_sandbox/controllers", {"paused": ["deployments"]})
    try:
        api(home).merge(path, {"spec": {"minReadySeconds": 1}})
        lagging = look(home)["deployments"]
    finally:
        api(home).send("PATCH", "/_sandbox/controllers", {"paused": []})
        api(home).merge(path, {"spec": {"minReadySeconds": 0}})
    assert only(lagging).summary == f"{API}: the controller has not seen its last 1 change"
    assert only(lagging).facts["observed_generation"] == seen
    assert_well(home)


def test_a_service_whose_selector_matches_nothing_is_found(home: Home) -> None:
    with broken(home, "studyspot_service_without_endpoints"):
        finding = found(home, "services", WEB)
        assert finding.summary == f"service {WEB} has no ready endpoint (0 not ready; selector app=studyspot-website)"
        assert finding.severity == Severity.P1
        assert [each.object for each in look(home)["services"].findings] == [WEB], "one broken service is named"
    assert_well(home)


def test_a_scaling_that_nobody_put_back_is_found_on_deployments_and_autoscalers(home: Home) -> None:
    with broken(home, "studyspot_scaling_overdue"):
        finding = found(home, "scaling", f"deployment {WEB}")
        assert re.fullmatch(
            rf"deployment {WEB} was scaled from 1 to 2 until 20\S+ \S+ UTC, and .* back", finding.summary
        )
        assert finding.severity == Severity.P2
    path = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers/{API}"
    # Over since now: whoever puts it back is about to. What others wrote there is not ours to judge.
    for ended, state in ((timedelta(hours=1), "finding"), (timedelta(minutes=1), "ok"), (None, "ok")):
        until = (datetime.now(UTC) - ended).isoformat() if ended else "tomorrow"
        memory = json.dumps({"was": 3, "now": 5, "until": until})
        api(home).merge(path, {"metadata": {"annotations": {"upkeep.dev/before-scaling": memory}}})
        try:
            assert look(home)["scaling"].state == state
        finally:
            api(home).merge(path, {"metadata": {"annotations": {"upkeep.dev/before-scaling": None}}})
    assert_well(home)


def test_services_without_a_selector_and_external_names_are_left_out(home: Home) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/services"
    for name, spec in (
        ("external", {"type": "ExternalName", "externalName": "db.example.com", "selector": {"app": "x"}}),
        ("headless", {"clusterIP": "None", "ports": [{"port": 5432}]}),
    ):
        api(home).send("POST", path, {"kind": "Service", "apiVersion": "v1", "metadata": {"name": name}, "spec": spec})
    try:
        assert look(home)["services"].state == "ok"
        assert look(home)["services"].facts["services"] == 2
    finally:
        for name in ("external", "headless"):
            api(home).send("DELETE", f"{path}/{name}")


# -- nodes and usage -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("studyspot_node_not_ready", "node node-2: NotReady (NodeStatusUnknown) since "),
        ("studyspot_node_disk_pressure", "node node-2: DiskPressure since "),
    ],
)
def test_a_node_in_trouble_is_p1(home: Home, fault: str, said: str) -> None:
    with broken(home, fault):
        finding = only(look(home)["nodes"])
        assert finding.summary.startswith(said)
        assert (finding.object, finding.severity) == ("node-2", Severity.P1)
    assert_well(home)


def test_a_cordoned_node_is_p4(home: Home) -> None:
    api(home).merge("/api/v1/nodes/node-1", {"spec": {"unschedulable": True}})
    try:
        finding = only(look(home)["nodes"])
        assert finding.summary == "node node-1 is cordoned: it takes no new pods"
        assert finding.severity == Severity.P4
    finally:
        api(home).merge("/api/v1/nodes/node-1", {"spec": {"unschedulable": None}})
    assert_well(home)


def test_a_busy_node_is_found_with_its_share(home: Home) -> None:
    with broken(home, "studyspot_node_busy"):
        finding = only(look(home)["usage"])
        assert finding.summary == "97% of the allocatable cpu of node node-2 is in use"
        assert (finding.object, finding.severity) == ("node-2/cpu", Severity.P2)
    assert_well(home)


def test_a_container_near_its_limit_is_found_at_its_owner(home: Home) -> None:
    section = STUDYSPOT.model_copy(update={"usage": Threshold(warn=0.2, critical=0.95)})
    finding = {each.object: each for each in look(home, section)["usage"].findings}["studyspot-api/app/cpu"]
    assert finding.summary.endswith("of the cpu limit of studyspot-api/app is in use")
    assert finding.severity == Severity.P3


def test_without_a_metrics_api_usage_is_unknown_and_not_ok(home: Home) -> None:
    with broken(home, "kubernetes_metrics_missing"):
        seen = look(home)["usage"]
        assert (seen.state, seen.severity) == ("unknown", Severity.P3)
        assert seen.reason.startswith("there is no metrics API (metrics.k8s.io): ")
    assert_well(home)


def test_long_lists_are_read_to_their_end(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    before = look(home)["pods"].facts["pods"]
    monkeypatch.setattr(kubernetes, "PAGE", 2)
    assert look(home)["pods"].facts["pods"] == before


# -- pods made to measure ------------------------------------------------------------------------------


def running(restarts: int = 0, last: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": clock.ago(60)}],
        "containerStatuses": [
            {
                "name": "main",
                "ready": True,
                "image": "tool:1",
                "imageID": "",
                "restartCount": restarts,
                "state": {"running": {"startedAt": clock.ago(60)}},
                "lastState": {"terminated": last} if last else {},
            }
        ],
    }


def unschedulable(minutes: int) -> dict[str, Any]:
    return {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/2 nodes are available: insufficient memory.",
        "lastTransitionTime": clock.ago(minutes * 60),
    }


@contextmanager
def pod(
    home: Home, name: str, status: dict[str, Any], *, born_s: float = 1800, finalizers: list[str] | None = None
) -> Iterator[None]:
    """A pod whose kubelet said ``status``, and then nothing more until the block ends."""
    body: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "creationTimestamp": clock.ago(born_s),
            "finalizers": finalizers or [],
        },
        "spec": {"nodeName": "node-1", "containers": [{"name": "main", "image": "tool:1"}]},
        "status": status,
    }
    api(home).send("PATCH", "/_sandbox/controllers", {"paused": ["kubelets"]})
    api(home).send("POST", "/_sandbox/objects", {"items": [body]})
    try:
        yield
    finally:
        api(home).send("PATCH", "/_sandbox/controllers", {"paused": []})
        if finalizers:
            api(home).merge(f"{PODS}/{name}", {"metadata": {"finalizers": None}})
        _gone(home, name)


def _gone(home: Home, name: str) -> None:
    names: Callable[[], list[str]] = lambda: [each["metadata"]["name"] for each in api(home).get(PODS)["items"]]  # noqa: E731
    if name in names():
        api(home).send("DELETE", f"{PODS}/{name}?gracePeriodSeconds=0")
    until(lambda: name not in names(), f"pod {name} to be gone")


def test_ages_come_from_the_api_and_not_from_us(home: Home) -> None:
    """The same pod, an hour older: what was young enough is not any more."""
    with pod(home, "aging", running() | {"conditions": [unready()]}):
        assert_none(home, "aging")
        age(home, f"{PODS}/aging", 3600)
        assert found(home, "pods", "aging").summary.endswith("Running but not ready for more than 5m")


def unready() -> dict[str, Any]:
    return {"type": "Ready", "status": "False", "lastTransitionTime": clock.ago(30)}
