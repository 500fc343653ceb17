"""Every named fault of the sandbox's cluster is real and heals without a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox import processes
from sandbox.faults import FAULTS, break_it, heal_it
from sandbox.home import Home, SandboxError
from sandbox.servers.kubernetes import NAME, api, start_kubernetes
from tests.kubernetes_cluster import API, NAMESPACE, PACE, WEB, condition, pods, running_cluster, settled, until


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with running_cluster(**PACE) as home:
        settled(home)
        yield home


def waiting(home: Home, app: str, namespace: str) -> set[str]:
    statuses = [pod["status"].get("containerStatuses", [{}])[0] for pod in pods(home, app, namespace)]
    return {each.get("state", {}).get("waiting", {}).get("reason", "") for each in statuses}


def crashing(app: str, namespace: str) -> Callable[[Home], bool]:
    def check(home: Home) -> bool:
        counts = [
            pod["status"].get("containerStatuses", [{}])[0].get("restartCount", 0) for pod in pods(home, app, namespace)
        ]
        return "CrashLoopBackOff" in waiting(home, app, namespace) and max(counts) > 5

    return check


def unready_for_long(home: Home) -> bool:
    ready = [condition(pod, "Ready") for pod in pods(home, API)]
    ill = [each for each in ready if each and each["status"] == "False"]
    slices = api(home).get(f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices")["items"]
    mine = next(each for each in slices if each["metadata"]["labels"]["kubernetes.io/service-name"] == API)
    out = [each for each in mine["endpoints"] if not each["conditions"]["ready"]]
    return len(ill) == len(out) == 1 and ill[0]["lastTransitionTime"] < mine["metadata"]["creationTimestamp"]


def without_endpoints(home: Home) -> bool:
    slices = api(home).get(f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices")["items"]
    mine = next(each for each in slices if each["metadata"]["labels"]["kubernetes.io/service-name"] == WEB)
    return not mine["endpoints"] and not api(home).get(f"/api/v1/namespaces/{NAMESPACE}/endpoints/{WEB}")["subsets"]


def node(home: Home, kind: str) -> str:
    return str(condition(api(home).get("/api/v1/nodes/node-2"), kind)["status"])


def refuses(home: Home, path: str) -> bool:
    try:
        api(home).send("GET", path, timeout_s=0.5)
    except SandboxError:
        return True
    return False


def busy(home: Home) -> bool:
    used = api(home).get("/apis/metrics.k8s.io/v1beta1/nodes/node-2")["usage"]["cpu"]
    return float(used.removesuffix("n")) / 1e9 / 3.9 > 0.95


def collects_late(home: Home) -> bool:
    read = api(home).get("/api/v1/nodes/node-2/proxy/configz")["kubeletconfig"]
    return (read["imageGCLowThresholdPercent"], read["imageGCHighThresholdPercent"]) != (80, 85)


def many_jobs(home: Home) -> bool:
    return len(api(home).get(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs")["items"]) > 50


def scaled(home: Home) -> bool:
    found = api(home).get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{WEB}")
    return "upkeep.dev/before-scaling" in (found["metadata"].get("annotations") or {})


RED: dict[str, Callable[[Home], bool]] = {
    "studyspot_pod_crashloop": crashing(API, NAMESPACE),
    "adaptive_learning_pod_crashloop": crashing("user-service", "adaptive-learning-production"),
    "studyspot_image_missing": lambda home: "ImagePullBackOff" in waiting(home, WEB, NAMESPACE),
    "studyspot_pod_unready": unready_for_long,
    "studyspot_service_without_endpoints": without_endpoints,
    "studyspot_scaling_overdue": scaled,
    "studyspot_node_not_ready": lambda home: node(home, "Ready") == "Unknown",
    "studyspot_node_disk_pressure": lambda home: node(home, "DiskPressure") == "True",
    "studyspot_node_busy": busy,
    "studyspot_image_gc": collects_late,
    "studyspot_jobs_flood": many_jobs,
    "kubernetes_metrics_missing": lambda home: refuses(home, "/apis/metrics.k8s.io/v1beta1/nodes"),
    "kubernetes_hangs": lambda home: refuses(home, "/api/v1/nodes"),
    "kubernetes_down": lambda home: not processes.listening(home.port(NAME)),
}


def test_every_fault_of_the_cluster_is_tested() -> None:
    registered = {name for name, fault in FAULTS.items() if fault.break_.__module__ == "sandbox.servers.kubernetes"}
    assert registered == set(RED)


@pytest.mark.parametrize("name", RED)
def test_a_fault_is_real_and_heals_without_a_trace(home: Home, name: str) -> None:
    def templates() -> list[Any]:
        return [each["spec"]["template"] for each in api(home).get("/apis/apps/v1/deployments")["items"]]

    settled(home)
    before = templates()
    assert not RED[name](home)
    break_it(home, name)
    until(lambda: RED[name](home), f"{name} to show")
    heal_it(home, name)
    until(lambda: not RED[name](home), f"{name} to be healed")
    settled(home)
    assert templates() == before
    assert home.state()["broken"] == []


def test_a_killed_cluster_comes_back_with_what_it_had(home: Home) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
    made = api(home).send("POST", path, {"metadata": {"name": "kept"}, "data": {"a": "1"}})
    names = sorted(pod["metadata"]["name"] for pod in pods(home, API))
    # It writes its state every two seconds; SIGKILL leaves no time for more.
    until(lambda: made["metadata"]["uid"] in (home.path / NAME / "state.json").read_text(), "the state to be kept")
    processes.stop(home, NAME, sig=9)
    start_kubernetes(home, **PACE)
    assert api(home).get(f"{path}/kept") == made
    assert sorted(pod["metadata"]["name"] for pod in pods(home, API)) == names
    assert all(condition(pod, "Ready")["status"] == "True" for pod in pods(home, API))
