"""Restart, scale and rollback against a living cluster: once each, within bounds, and put back."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from kubernetes.client import ApiClient
from kubernetes.config import new_client_from_config

from sandbox.home import Home
from sandbox.servers.kubernetes import api, kubeconfig
from tests import incident_cluster
from tests.incident_cluster import APPS, HOUR, patch, rollout, scripted, settle, writes
from tests.kubernetes_cluster import API, NAMESPACE, WEB, deployment, pods, set_image
from upkeep.incident import evidence, remedies, workloads
from upkeep.incident.workloads import RESTARTED, WorkloadError
from upkeep.platforms.services import Deployment

cluster, client = incident_cluster.cluster, incident_cluster.client


# -- restart ---------------------------------------------------------------------------------------------


def test_a_restart_replaces_every_pod_once(cluster: Home, client: ApiClient) -> None:
    before = {pod["metadata"]["uid"] for pod in pods(cluster, WEB)}
    assert remedies.restart(client, NAMESPACE, WEB, key="run-1").changed
    found = rollout(client, WEB)
    after = {pod["metadata"]["uid"] for pod in pods(cluster, WEB)}
    assert len(after) == 2
    assert not before & after
    at = found.template["metadata"]["annotations"][RESTARTED]
    assert abs((datetime.fromisoformat(at) - datetime.now(UTC)).total_seconds()) < 60
    again = remedies.restart(client, NAMESPACE, WEB, key="run-1")
    assert (again.changed, again.said.endswith("was restarted by this run already")) == (False, True)
    assert {pod["metadata"]["uid"] for pod in pods(cluster, WEB)} == after
    assert remedies.restart(client, NAMESPACE, WEB, key="run-2").changed
    rollout(client, WEB)


def test_one_replica_is_restarted_only_when_downtime_is_accepted(cluster: Home, client: ApiClient) -> None:
    patch(cluster, WEB, {"spec": {"replicas": 1}})
    rollout(client, WEB)
    with pytest.raises(WorkloadError, match=r"restarting deployment studyspot/studyspot-web interrupts it: .*replica"):
        remedies.restart(client, NAMESPACE, WEB, key="one")
    assert remedies.restart(client, NAMESPACE, WEB, key="one", downtime=True).changed
    rollout(client, WEB)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"metadata": {"labels": {"argocd.argoproj.io/instance": "shop"}}}, r"belongs to Argo CD[\s\S]*HINT:"),
        ({"spec": {"paused": True}}, r"is paused[\s\S]*HINT: .*rollout resume"),
    ],
)
def test_what_others_hold_is_left_alone(cluster: Home, client: ApiClient, body: dict[str, Any], says: str) -> None:
    patch(cluster, API, body)
    before = deployment(cluster, API)["spec"]["template"]
    for act in (
        lambda: remedies.restart(client, NAMESPACE, API, key="x"),
        lambda: remedies.scale(client, NAMESPACE, Deployment(name=API, most=10), to=5, lasts=HOUR),
    ):
        with pytest.raises(WorkloadError, match=says):
            act()
    assert deployment(cluster, API)["spec"]["template"] == before


def test_a_rollout_in_progress_is_not_disturbed(cluster: Home, client: ApiClient) -> None:
    set_image(cluster, API, "broken")
    deadline = time.monotonic() + 10
    while not workloads.look(client, NAMESPACE, API).moving:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(WorkloadError, match=r"a rollout of .*studyspot-api is in progress: \d of 3 updated"):
        remedies.restart(client, NAMESPACE, API, key="x")


# -- waiting ---------------------------------------------------------------------------------------------


def test_a_rollout_that_gets_nowhere_fails_with_the_reason(cluster: Home, client: ApiClient) -> None:
    patch(cluster, API, {"spec": {"progressDeadlineSeconds": 2, "minReadySeconds": 0}})
    try:
        set_image(cluster, API, "broken")
        with pytest.raises(WorkloadError, match=r"the rollout of .* is stuck: .*progress[\s\S]*HINT: .*roll it back"):
            rollout(client, API, within_s=60)
    finally:
        patch(cluster, API, {"spec": {"progressDeadlineSeconds": 600}})


def test_the_deadline_is_kept_and_says_how_far_it_came(cluster: Home, client: ApiClient) -> None:
    set_image(cluster, API, "broken")
    began = time.monotonic()
    with pytest.raises(WorkloadError, match=r"is not rolled out after 2 s: \d of 3 updated, 3 available, 4 in all"):
        rollout(client, API, within_s=2)
    assert time.monotonic() - began < 4


def test_a_controller_that_lags_behind_is_waited_for(cluster: Home, client: ApiClient) -> None:
    """Its status still says that all is well, about the generation before."""
    found = workloads.look(client, NAMESPACE, WEB)
    metadata = {**found.raw["metadata"], "generation": found.raw["metadata"]["generation"] + 1}
    lagging = replace(found, raw={**found.raw, "metadata": metadata})
    assert found.rolled_out
    assert not lagging.rolled_out
    assert lagging.moving


@pytest.mark.parametrize(
    "fault",
    [
        {"answer": 429, "retry_after_s": 1, "times": 2},
        {"answer": 503, "times": 2},
        {"close": True, "times": 2},
        {"answer": 500, "times": 1},
    ],
)
def test_an_api_server_that_stumbles_is_asked_again(cluster: Home, client: ApiClient, fault: dict[str, Any]) -> None:
    with scripted(cluster, path=f"/deployments/{WEB}", **fault):
        assert remedies.restart(client, NAMESPACE, WEB, key=f"stumble-{fault}").changed
        rollout(client, WEB)


def test_a_conflict_is_said_and_nothing_is_done_twice(cluster: Home, client: ApiClient) -> None:
    with (
        scripted(cluster, path=f"/deployments/{WEB}", method="PATCH", answer=409, times=1),
        pytest.raises(WorkloadError, match=r"409 .*scripted: Conflict[\s\S]*HINT: somebody else changed it"),
    ):
        remedies.restart(client, NAMESPACE, WEB, key="conflict")
    assert remedies.restart(client, NAMESPACE, WEB, key="conflict").changed
    rollout(client, WEB)


def test_who_may_not_is_told_so(cluster: Home) -> None:
    viewer = new_client_from_config(str(kubeconfig(cluster, NAMESPACE, user="viewer")))
    try:
        with pytest.raises(WorkloadError, match=r"403 to \w+: [\s\S]*HINT: give the connection's user this right"):
            remedies.restart(viewer, NAMESPACE, WEB, key="viewer")
    finally:
        kubeconfig(cluster, NAMESPACE)


def test_a_deployment_that_is_not_there(client: ApiClient) -> None:
    with pytest.raises(WorkloadError, match=r"404 [\s\S]*HINT: `kubernetes.deployments` of the platform file"):
        remedies.restart(client, NAMESPACE, "studyspot-nobody", key="x")


# -- scale -----------------------------------------------------------------------------------------------


def test_an_autoscaler_is_raised_and_put_back(cluster: Home, client: ApiClient) -> None:
    bounds = Deployment(name=API, most=8)
    before = deployment(cluster, API)["spec"]
    done = remedies.scale(client, NAMESPACE, bounds, to=5, lasts=HOUR)
    assert (done.changed, done.said) == (
        True,
        "autoscaler studyspot-api: at least 5 instead of 3 replicas of deployment studyspot/studyspot-api",
    )
    assert not any(path.startswith(APPS) for path in writes(cluster)[-1:]), "the Deployment is the autoscaler's"
    settle(client, API, 5)
    assert deployment(cluster, API)["spec"]["template"] == before["template"]
    left = remedies.due(client, NAMESPACE, API)
    assert left is not None
    assert timedelta(minutes=59) < left - datetime.now(UTC) <= HOUR
    # Killed after it, and done again; then more is needed.
    assert not remedies.scale(client, NAMESPACE, bounds, to=5, lasts=HOUR).changed
    assert remedies.scale(client, NAMESPACE, bounds, to=6, lasts=HOUR).changed
    assert remedies.put_back(client, NAMESPACE, API).said == "deployment studyspot/studyspot-api: 3 again, after 6"
    settle(client, API, 3)
    assert remedies.due(client, NAMESPACE, API) is None
    assert not remedies.put_back(client, NAMESPACE, API).changed


def test_without_an_autoscaler_the_deployment_is_scaled_and_put_back(cluster: Home, client: ApiClient) -> None:
    bounds = Deployment(name=WEB, most=8)
    assert remedies.scale(client, NAMESPACE, bounds, to=4, lasts=HOUR).changed
    settle(client, WEB, 4)
    assert remedies.put_back(client, NAMESPACE, WEB).changed
    settle(client, WEB, 2)


def test_it_never_scales_down_nor_beyond_the_bounds(cluster: Home, client: ApiClient) -> None:
    done = remedies.scale(client, NAMESPACE, Deployment(name=WEB, most=8), to=1, lasts=HOUR)
    assert (done.changed, done.said) == (False, "deployment studyspot/studyspot-web has 2 replicas already")
    with pytest.raises(WorkloadError, match=r"9 replicas of .* more than the platform file allows \(8\)"):
        remedies.scale(client, NAMESPACE, Deployment(name=WEB, most=8), to=9, lasts=HOUR)
    with pytest.raises(WorkloadError, match=r"11 replicas are more than autoscaler studyspot-api may give"):
        remedies.scale(client, NAMESPACE, Deployment(name=API, most=20), to=11, lasts=HOUR)
    patch(cluster, WEB, {"spec": {"replicas": 0}})
    with pytest.raises(WorkloadError, match=r"is switched off \(0 replicas\)"):
        remedies.scale(client, NAMESPACE, Deployment(name=WEB, most=8), to=2, lasts=HOUR)


def test_what_somebody_changed_since_is_theirs(cluster: Home, client: ApiClient) -> None:
    remedies.scale(client, NAMESPACE, Deployment(name=WEB, most=8), to=4, lasts=HOUR)
    patch(cluster, WEB, {"spec": {"replicas": 5}})
    done = remedies.put_back(client, NAMESPACE, WEB)
    assert not done.changed
    assert "somebody made it 5 since it was scaled to 4" in done.said
    assert remedies.due(client, NAMESPACE, WEB) is None


def test_a_quota_that_is_short_refuses(cluster: Home, client: ApiClient) -> None:
    quota = {
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small", "namespace": NAMESPACE},
        "spec": {"hard": {"pods": "20", "requests.cpu": "1"}},
        "status": {"hard": {"pods": "20", "requests.cpu": "1"}, "used": {"pods": "9", "requests.cpu": "900m"}},
    }  # fmt: skip
    api(cluster).send("POST", "/_sandbox/objects", {"items": [quota]})
    try:
        with pytest.raises(WorkloadError, match=r"no room for 2 more of .*: quota small allows 1 requests.cpu, 900m"):
            remedies.scale(client, NAMESPACE, Deployment(name=WEB, most=8), to=4, lasts=HOUR)
        assert deployment(cluster, WEB)["spec"]["replicas"] == 2
    finally:
        api(cluster).send("DELETE", f"/api/v1/namespaces/{NAMESPACE}/resourcequotas/small")


# -- evidence --------------------------------------------------------------------------------------------


@pytest.mark.soak
def test_evidence_has_the_reason_the_events_and_both_logs(cluster: Home, client: ApiClient) -> None:
    from sandbox.faults import break_it, heal_it

    break_it(cluster, "studyspot_pod_crashloop")
    try:
        deadline = time.monotonic() + 20
        while True:
            seen = evidence.gather(client, NAMESPACE, API)
            crashed = [pod for pod in seen["pods"] if pod["restarts"] >= 1 and not pod["ready"]]
            if crashed and any("before" in tails for tails in seen["logs"].values()):
                break
            assert time.monotonic() < deadline, seen
            time.sleep(0.2)
    finally:
        heal_it(cluster, "studyspot_pod_crashloop")
    assert seen["pods"][0] == crashed[0], "the worst first"
    assert crashed[0]["containers"][0]["last_end"]["exitCode"] != "0"
    assert any("BackOff" in event["reason"] for event in seen["events"]), seen["events"]
    assert seen["deployment"]["autoscaler"] == {"name": API, "min": 3, "max": 10}
    assert seen["missing"] == []
    assert len(json.dumps(seen)) < 300_000


def test_what_could_not_be_asked_is_named(cluster: Home, client: ApiClient) -> None:
    with scripted(cluster, path="/events", answer=403):
        seen = evidence.gather(client, NAMESPACE, WEB)
    assert [one.startswith("events: 403") for one in seen["missing"]] == [True]
    assert seen["pods_in_all"] == 2


def test_two_at_once_scale_once(cluster: Home, client: ApiClient) -> None:
    bounds = Deployment(name=WEB, most=8)
    scale = partial(remedies.scale, client, NAMESPACE, bounds, to=4, lasts=HOUR)
    threads = [threading.Thread(target=scale) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settle(client, WEB, 4)
    remedies.put_back(client, NAMESPACE, WEB)
    settle(client, WEB, 2)
