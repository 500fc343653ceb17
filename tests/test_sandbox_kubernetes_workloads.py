"""The sandbox's Kubernetes controllers and kubelets: rollouts, autoscaling, evictions, Jobs and other workloads."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from kubernetes import client, config
from kubernetes.client import ApiException

from sandbox import processes
from sandbox.home import Home
from sandbox.servers.kubernetes import NAME, api, kubeconfig
from tests.kubernetes_cluster import (
    API,
    NAMESPACE,
    PACE,
    WEB,
    condition,
    deployment,
    pods,
    rolled_out,
    running_cluster,
    set_image,
    settled,
    until,
)


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with running_cluster(**PACE) as home:
        settled(home)
        yield home


@pytest.fixture(scope="module")
def connection(home: Home) -> client.ApiClient:
    return config.new_client_from_config(str(kubeconfig(home, NAMESPACE)))


@pytest.fixture(scope="module")
def core(connection: client.ApiClient) -> client.CoreV1Api:
    return client.CoreV1Api(connection)


@pytest.fixture(scope="module")
def apps(connection: client.ApiClient) -> client.AppsV1Api:
    return client.AppsV1Api(connection)


@pytest.fixture(scope="module")
def batch(connection: client.ApiClient) -> client.BatchV1Api:
    return client.BatchV1Api(connection)


# -- rollouts ----------------------------------------------------------------------------------------------


def test_a_rollout_never_has_too_few_pods_and_keeps_the_old_revision(home: Home) -> None:
    before = deployment(home, API)
    set_image(home, API, "1.5.0")
    available = []

    def done() -> bool:
        found = deployment(home, API)
        available.append(found["status"].get("availableReplicas", 0))
        return rolled_out(found)

    until(done, "the rollout")
    # 25 % of three pods may be missing: none.
    assert min(available) >= 3
    after = deployment(home, API)
    revisions = [int(each["metadata"]["annotations"]["deployment.kubernetes.io/revision"]) for each in (before, after)]
    assert revisions[1] == revisions[0] + 1
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1
    assert condition(after, "Progressing")["reason"] == "NewReplicaSetAvailable"
    sets = api(home).get(f"/apis/apps/v1/namespaces/{NAMESPACE}/replicasets?labelSelector=app%3D{API}")["items"]
    assert sorted(each["spec"]["replicas"] for each in sets) == [0, 3]
    digests = {each["status"]["containerStatuses"][0]["imageID"] for each in pods(home, API)}
    assert len(digests) == 1
    assert "@sha256:" in digests.pop()
    set_image(home, API, "1.4.2")
    until(lambda: rolled_out(deployment(home, API)), "the rollback")


def test_a_rollout_that_cannot_finish_passes_its_deadline_while_the_old_pods_serve(home: Home) -> None:
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{WEB}"
    api(home).merge(path, {"spec": {"progressDeadlineSeconds": 1}})
    set_image(home, WEB, "broken")
    late = until(
        lambda: (found := deployment(home, WEB)) and condition(found, "Progressing").get("status") == "False" and found,
        "the deadline to pass",
    )
    assert condition(late, "Progressing")["reason"] == "ProgressDeadlineExceeded"
    assert late["status"]["availableReplicas"] == 2
    set_image(home, WEB, "1.4.2")
    api(home).merge(path, {"spec": {"progressDeadlineSeconds": 600}})
    until(lambda: rolled_out(deployment(home, WEB)), "the rollback")


def test_a_paused_rollout_does_not_start(home: Home) -> None:
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{WEB}"
    api(home).merge(path, {"spec": {"paused": True}})
    set_image(home, WEB, "1.9.9")
    until(lambda: condition(deployment(home, WEB), "Progressing").get("reason") == "DeploymentPaused", "the pause")
    assert {pod["spec"]["containers"][0]["image"].partition(":")[2] for pod in pods(home, WEB)} == {"1.4.2"}
    set_image(home, WEB, "1.4.2")
    api(home).merge(path, {"spec": {"paused": None}})
    until(lambda: rolled_out(deployment(home, WEB)), "the deployment to be as before")


def test_nobody_observes_a_generation_while_the_controller_stands_still(home: Home) -> None:
    api(home).send("PATCH", "/_sandbox/controllers", {"paused": ["deployments"]})
    set_image(home, WEB, "1.4.3")
    time.sleep(0.4)
    found = deployment(home, WEB)
    assert found["status"]["observedGeneration"] < found["metadata"]["generation"]
    api(home).send("PATCH", "/_sandbox/controllers", {"paused": []})
    set_image(home, WEB, "1.4.2")
    until(lambda: rolled_out(deployment(home, WEB)), "the deployment to be as before")


# -- autoscaling and disruption ----------------------------------------------------------------------------


def test_an_autoscaler_overwrites_replicas_set_by_hand(
    home: Home, apps: client.AppsV1Api, core: client.CoreV1Api
) -> None:
    for replicas in (1, 12):
        apps.patch_namespaced_deployment_scale(API, NAMESPACE, {"spec": {"replicas": replicas}})
        until(lambda: deployment(home, API)["spec"]["replicas"] == 3, "what the load asks for")
    events = core.list_namespaced_event(NAMESPACE, field_selector="reason=SuccessfulRescale").items
    assert {event.message for event in events} == {
        "New size: 3; reason: Current number of replicas below Spec.MinReplicas",
        "New size: 10; reason: Current number of replicas above Spec.MaxReplicas",
        "New size: 3; reason: All metrics below target",
    }
    until(lambda: rolled_out(deployment(home, API)), "the pods to settle")


def test_an_autoscaler_follows_its_minimum_and_the_load(home: Home) -> None:
    path = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers/{API}"
    api(home).merge(path, {"spec": {"minReplicas": 5}})
    until(lambda: rolled_out(found := deployment(home, API)) and found["spec"]["replicas"] == 5, "five replicas")
    # The recommendations of the last five minutes would hold the scale up.
    behavior = {"scaleDown": {"stabilizationWindowSeconds": 0}}
    api(home).merge(path, {"spec": {"minReplicas": 3, "behavior": behavior}})
    until(lambda: deployment(home, API)["spec"]["replicas"] == 3, "three replicas again")
    api(home).send("PATCH", "/_sandbox/metrics", {"load": {f"{NAMESPACE}/{API}": {"cpu": "1050m"}}})
    until(lambda: deployment(home, API)["spec"]["replicas"] == 6, "1050m at 70 % of 250m each: six replicas")
    api(home).send("PATCH", "/_sandbox/metrics", {"load": {f"{NAMESPACE}/{API}": {"cpu": "450m"}}})
    until(lambda: deployment(home, API)["spec"]["replicas"] == 3, "three replicas again")


def test_zero_replicas_switch_the_autoscaler_off(home: Home, apps: client.AppsV1Api) -> None:
    apps.patch_namespaced_deployment_scale(API, NAMESPACE, {"spec": {"replicas": 0}})
    path = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers/{API}"
    off = until(
        lambda: (found := condition(api(home).get(path), "ScalingActive")) and found["status"] == "False" and found,
        "scaling to be disabled",
    )
    assert off["reason"] == "ScalingDisabled"
    apps.patch_namespaced_deployment_scale(API, NAMESPACE, {"spec": {"replicas": 3}})
    until(lambda: rolled_out(deployment(home, API)), "the pods to be back")


def test_an_eviction_that_a_budget_forbids_is_refused_with_429(home: Home, core: client.CoreV1Api) -> None:
    until(
        lambda: (
            api(home)
            .get(f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets/{API}")["status"]
            .get("disruptionsAllowed")
        ),
        "the budget to allow one disruption",
    )
    first, second = (pod["metadata"]["name"] for pod in pods(home, API)[:2])
    api(home).send("PATCH", "/_sandbox/controllers", {"paused": ["replicasets", "budgets"]})
    core.create_namespaced_pod_eviction(first, NAMESPACE, {"metadata": {"name": first}})
    with pytest.raises(ApiException) as caught:
        core.create_namespaced_pod_eviction(second, NAMESPACE, {"metadata": {"name": second}})
    assert caught.value.status == 429
    assert caught.value.headers["Retry-After"] == "10"
    assert "disruption budget" in caught.value.body
    api(home).send("PATCH", "/_sandbox/controllers", {"paused": []})
    until(lambda: len(pods(home, API)) == 3 and rolled_out(deployment(home, API)), "the evicted pod's successor")


# -- pods that really run ----------------------------------------------------------------------------------


def job(name: str, script: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "busybox:1", "command": ["sh", "-c", script]}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {"metadata": {"name": name}, "spec": {"template": template, **spec}}


def finished(batch: client.BatchV1Api, name: str) -> str:
    """The type of the condition that ended a Job."""

    def ended() -> str:
        conditions = batch.read_namespaced_job(name, NAMESPACE).status.conditions or []
        return next((each.type for each in conditions if each.status == "True"), "")

    return str(until(ended, f"job {name} to end"))


def log(core: client.CoreV1Api, pod: str, **options: Any) -> str:
    # Client 36 hands out the repr of the bytes ("b'...'") when it decodes logs itself.
    answer = core.read_namespaced_pod_log(pod, NAMESPACE, _preload_content=False, **options)
    return str(answer.data.decode())


def test_a_job_runs_its_command_for_real_and_keeps_its_log(batch: client.BatchV1Api, core: client.CoreV1Api) -> None:
    batch.create_namespaced_job(NAMESPACE, job("sums", "echo $((6 * 7)); echo done >&2"))
    assert finished(batch, "sums") == "Complete"
    pod = core.list_namespaced_pod(NAMESPACE, label_selector="job-name=sums").items[0]
    assert log(core, pod.metadata.name) == "42\ndone\n"
    assert log(core, pod.metadata.name, tail_lines=1) == "done\n"


def test_a_job_that_fails_is_tried_again_up_to_its_limit(batch: client.BatchV1Api, core: client.CoreV1Api) -> None:
    batch.create_namespaced_job(NAMESPACE, job("failing", "exit 3", backoffLimit=1))
    assert finished(batch, "failing") == "Failed"
    tried = core.list_namespaced_pod(NAMESPACE, label_selector="job-name=failing").items
    codes = [pod.status.container_statuses[0].state.terminated.exit_code for pod in tried]
    assert codes == [3, 3]


def test_deleting_a_job_leaves_its_pods_unless_one_says_otherwise(
    batch: client.BatchV1Api, core: client.CoreV1Api
) -> None:
    for name, policy, left in (("orphaning", None, 1), ("sweeping", "Background", 0)):
        batch.create_namespaced_job(NAMESPACE, job(name, "true"))
        finished(batch, name)
        options = {"propagation_policy": policy} if policy else {}
        batch.delete_namespaced_job(name, NAMESPACE, **options)
        assert len(core.list_namespaced_pod(NAMESPACE, label_selector=f"job-name={name}").items) == left
    core.delete_collection_namespaced_pod(NAMESPACE, label_selector="job-name=orphaning")


def test_a_deleted_pod_gets_its_grace_and_leaves_no_process(home: Home, core: client.CoreV1Api) -> None:
    # It takes note of the signal and goes on, so that only the end of its grace ends it; its child goes with it.
    script = "trap 'echo asked to end' TERM; sleep 71.5 & while true; do sleep 0.1; done"
    spec = {"restartPolicy": "Never", "containers": job("x", script)["spec"]["template"]["spec"]["containers"]}
    core.create_namespaced_pod(NAMESPACE, {"metadata": {"name": "stubborn"}, "spec": spec})
    until(lambda: core.read_namespaced_pod("stubborn", NAMESPACE).status.phase == "Running", "the pod to run")
    until(lambda: _sleepers(home), "its child")
    core.delete_namespaced_pod("stubborn", NAMESPACE, grace_period_seconds=1)
    assert core.read_namespaced_pod("stubborn", NAMESPACE).metadata.deletion_timestamp
    until(lambda: "asked to end" in log(core, "stubborn"), "the signal", 1)

    def gone() -> bool:
        return "stubborn" not in [pod.metadata.name for pod in core.list_namespaced_pod(NAMESPACE).items]

    until(gone, "the pod to be gone", 4)
    assert _sleepers(home) == []


def _sleepers(home: Home) -> list[int]:
    """Pids of the pod's grandchild."""
    found = []
    for child in psutil.Process(processes.running(home, NAME) or 0).children(recursive=True):
        # It may end while it is looked at.
        with contextlib.suppress(psutil.Error):
            found += [child.pid] if child.cmdline()[-1:] == ["71.5"] else []
    return found


def test_a_pod_without_a_fitting_node_stays_pending_and_says_why(core: client.CoreV1Api) -> None:
    container = {"name": "main", "image": "busybox:1", "resources": {"requests": {"cpu": "64"}}}
    body = {"metadata": {"name": "huge"}, "spec": {"restartPolicy": "Never", "containers": [container]}}
    core.create_namespaced_pod(NAMESPACE, body)
    told = until(lambda: core.read_namespaced_pod("huge", NAMESPACE).status.conditions, "the scheduler's word")
    assert (told[0].type, told[0].status, told[0].reason) == ("PodScheduled", "False", "Unschedulable")
    assert told[0].message == "0/2 nodes are available: 2 Insufficient cpu."
    core.delete_namespaced_pod("huge", NAMESPACE)


def test_an_image_that_cannot_be_run_and_one_that_is_killed_for_memory(home: Home, core: client.CoreV1Api) -> None:
    body = {"metadata": {"name": "oom", "annotations": {"sandbox/oom": "true"}}}
    core.create_namespaced_pod(NAMESPACE, {**body, "spec": {"containers": [{"name": "main", "image": "x:1"}]}})
    killed = until(
        lambda: (
            (found := core.read_namespaced_pod("oom", NAMESPACE).status.container_statuses)
            and found[0].last_state.terminated
            and found[0].restart_count >= 2
            and found[0]
        ),
        "two restarts",
    )
    assert (killed.last_state.terminated.reason, killed.last_state.terminated.exit_code) == ("OOMKilled", 137)
    core.delete_namespaced_pod("oom", NAMESPACE)


# -- stateful sets and daemon sets -------------------------------------------------------------------------


def test_a_stateful_set_keeps_names_and_claims_and_a_daemon_set_covers_the_nodes(
    home: Home, apps: client.AppsV1Api, core: client.CoreV1Api
) -> None:
    def spec(app: str) -> dict[str, Any]:
        template = {"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "main", "image": "x:1"}]}}
        return {"selector": {"matchLabels": {"app": app}}, "template": template}

    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    stateful = {"metadata": {"name": "db"}, "spec": {**spec("db"), "replicas": 2, "volumeClaimTemplates": [claim]}}
    apps.create_namespaced_stateful_set("monitoring", stateful)
    apps.create_namespaced_daemon_set("monitoring", {"metadata": {"name": "agent"}, "spec": spec("agent")})
    until(lambda: apps.read_namespaced_stateful_set("db", "monitoring").status.ready_replicas == 2, "the stateful set")
    until(lambda: apps.read_namespaced_daemon_set("agent", "monitoring").status.number_ready == 2, "the daemon set")
    assert [pod["metadata"]["name"] for pod in pods(home, "db", "monitoring")] == ["db-0", "db-1"]
    claims = core.list_namespaced_persistent_volume_claim("monitoring").items
    assert [(each.metadata.name, each.status.phase) for each in claims] == [
        ("data-db-0", "Bound"),
        ("data-db-1", "Bound"),
    ]
    nodes = {pod["spec"]["nodeName"] for pod in pods(home, "agent", "monitoring")}
    assert nodes == {"node-1", "node-2"}
    apps.delete_namespaced_stateful_set("db", "monitoring")
    apps.delete_namespaced_daemon_set("agent", "monitoring")
    until(lambda: not core.list_namespaced_pod("monitoring").items, "their pods to end")
