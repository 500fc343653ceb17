"""What metrics-server and the kubelets measure: made-up but steady numbers, and whatever a test sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sandbox.kubernetes import clock, quantities
from sandbox.kubernetes.conditions import is_ready, is_terminating, node_ready
from sandbox.kubernetes.errors import ApiError, no_such_path, not_found
from sandbox.kubernetes.resources import CLAIMS, DEPLOYMENTS, NODES, PODS, REPLICA_SETS
from sandbox.kubernetes.scheduler import requests
from sandbox.kubernetes.selectors import label_test
from sandbox.kubernetes.store import Store, owned_by

Object = dict[str, Any]

_SYSTEM = {"cpu": 0.12, "memory": 600 * 2**20}
"""What a node uses without any pod."""

KUBELET = {
    "imageGCHighThresholdPercent": 85,
    "imageGCLowThresholdPercent": 80,
    "containerLogMaxSize": "10Mi",
    "containerLogMaxFiles": 5,
    "maxPods": 110,
    "evictionHard": {"imagefs.available": "15%", "memory.available": "100Mi", "nodefs.available": "10%"},
}
"""The kubelet's defaults, as upstream documents them."""


@dataclass
class Settings:
    """What can be set from outside; quantities as in Kubernetes (``250m``, ``1Gi``)."""

    available: str = "yes"
    """``yes``; ``missing``: no metrics-server (404); ``unavailable``: one that does not answer (503)."""

    nodes: dict[str, Object] = field(default_factory=dict)
    """By name: ``cpu``, ``memory`` used; ``disk``, ``image_disk`` shares used; ``configz`` overrides."""

    pods: dict[str, Object] = field(default_factory=dict)
    """By ``namespace/prefix of the name``: ``cpu``, ``memory`` used by each."""

    load: dict[str, Object] = field(default_factory=dict)
    """By ``namespace/deployment``: ``cpu``, ``memory`` shared evenly by its ready pods."""

    claims: dict[str, float] = field(default_factory=dict)
    """By ``namespace/claim``: share of the volume used."""


def pod_usage(store: Store, settings: Settings, pod: Object, what: str) -> float:
    """Cores or bytes."""
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    for prefix, given in settings.pods.items():
        if f"{namespace}/{name}".startswith(prefix) and what in given:
            return quantities.number(given[what])
    for owner, given in settings.load.items():
        if what in given and (sharers := _pods_of(store, owner)) and pod["metadata"]["uid"] in sharers:
            return quantities.number(given[what]) / len(sharers)
    asked = requests(pod, what)
    return asked * 0.5 if asked else {"cpu": 0.01, "memory": 32 * 2**20}[what]


def _pods_of(store: Store, deployment: str) -> set[str]:
    namespace, _, name = deployment.partition("/")
    found = store.find(DEPLOYMENTS, namespace, name)
    sets = store.owned(REPLICA_SETS, found) if found else []
    return {
        pod["metadata"]["uid"]
        for pod in store.all(PODS, namespace)
        if is_ready(pod) and any(owned_by(pod, each["metadata"]["uid"]) for each in sets)
    }


def _running(store: Store, namespace: str | None = None) -> list[Object]:
    return [
        pod for pod in store.all(PODS, namespace) if pod["status"].get("phase") == "Running" and not is_terminating(pod)
    ]


def node_usage(store: Store, settings: Settings, node: str, what: str) -> float:
    given = settings.nodes.get(node) or {}
    if what in given:
        return quantities.number(given[what])
    there = [pod for pod in _running(store) if pod["spec"].get("nodeName") == node]
    return float(_SYSTEM[what]) + sum(pod_usage(store, settings, pod, what) for pod in there)


def answer(store: Store, settings: Settings, parts: list[str], query: dict[str, str]) -> Object:
    """
    The body for a path below ``/apis/metrics.k8s.io/v1beta1``.

    :raises ApiError: 404 without a metrics-server or such an object, 503 when it does not answer.
    """
    check(settings)
    matches = label_test(query.get("labelSelector"))
    match parts:
        case ["nodes"]:
            items = [_node(store, settings, node) for node in store.all(NODES) if node_ready(node)]
            return _list("NodeMetricsList", [each for each in items if matches(each["metadata"]["labels"])])
        case ["nodes", name]:
            return _node(store, settings, store.get(NODES, None, name))
        case ["pods"]:
            return _pods(store, settings, None, query)
        case ["namespaces", namespace, "pods"]:
            return _pods(store, settings, namespace, query)
        case ["namespaces", namespace, "pods", name]:
            pod = next((each for each in _running(store, namespace) if each["metadata"]["name"] == name), None)
            if pod is None:
                raise not_found("podmetrics.metrics.k8s.io", f"{namespace}/{name}")
            return _pod(store, settings, pod)
    raise no_such_path()


def check(settings: Settings) -> None:
    """:raises ApiError: as ``answer``."""
    if settings.available == "missing":
        raise no_such_path()
    if settings.available == "unavailable":
        raise ApiError(503, "ServiceUnavailable", "the server is currently unable to handle the request")


def _pods(store: Store, settings: Settings, namespace: str | None, query: dict[str, str]) -> Object:
    matches = label_test(query.get("labelSelector"))
    pods = [pod for pod in _running(store, namespace) if matches(pod["metadata"].get("labels") or {})]
    return _list("PodMetricsList", [_pod(store, settings, pod) for pod in pods])


def _list(kind: str, items: list[Object]) -> Object:
    return {"kind": kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items}


def _head(kind: str, obj: Object) -> Object:
    metadata = obj["metadata"]
    head = {"name": metadata["name"], "labels": metadata.get("labels") or {}, "creationTimestamp": clock.now()}
    if "namespace" in metadata:
        head["namespace"] = metadata["namespace"]
    made = {"kind": kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": head}
    return {**made, "timestamp": clock.ago(10), "window": "20s"}


def _node(store: Store, settings: Settings, node: Object) -> Object:
    name = node["metadata"]["name"]
    usage = {
        "cpu": quantities.cpu(node_usage(store, settings, name, "cpu")),
        "memory": quantities.memory(node_usage(store, settings, name, "memory")),
    }
    return {**_head("NodeMetrics", node), "usage": usage}


def _pod(store: Store, settings: Settings, pod: Object) -> Object:
    count = len(pod["spec"]["containers"])
    usage = {
        "cpu": quantities.cpu(pod_usage(store, settings, pod, "cpu") / count),
        "memory": quantities.memory(pod_usage(store, settings, pod, "memory") / count),
    }
    containers = [{"name": container["name"], "usage": usage} for container in pod["spec"]["containers"]]
    return {**_head("PodMetrics", pod), "containers": containers}


# -- the kubelet's own pages, through the node proxy -------------------------------------------------------


def configz(settings: Settings, node: str) -> Object:
    return {"kubeletconfig": {**KUBELET, **((settings.nodes.get(node) or {}).get("configz") or {})}}


def summary(store: Store, settings: Settings, node: Object) -> Object:
    """The kubelet's ``/stats/summary``."""
    name = node["metadata"]["name"]
    given = settings.nodes.get(name) or {}
    capacity = node["status"].get("capacity") or {}
    disk = int(quantities.number(capacity.get("ephemeral-storage", "100Gi")))
    memory_used = int(node_usage(store, settings, name, "memory"))
    there = [pod for pod in _running(store) if pod["spec"].get("nodeName") == name]
    return {
        "node": {
            "nodeName": name,
            "startTime": node["metadata"]["creationTimestamp"],
            "cpu": {"time": clock.now(), "usageNanoCores": int(node_usage(store, settings, name, "cpu") * 1e9)},
            "memory": {
                "time": clock.now(),
                "workingSetBytes": memory_used,
                "availableBytes": int(quantities.number(capacity.get("memory", "8Gi"))) - memory_used,
            },
            "fs": _filesystem(disk, given.get("disk", 0.42)),
            "runtime": {"imageFs": _filesystem(disk, given.get("image_disk", given.get("disk", 0.31)))},
        },
        "pods": [_pod_summary(store, settings, pod) for pod in there],
    }


def _filesystem(capacity: int, share: float) -> Object:
    used = int(capacity * share)
    return {"time": clock.now(), "capacityBytes": capacity, "usedBytes": used, "availableBytes": capacity - used}


def _pod_summary(store: Store, settings: Settings, pod: Object) -> Object:
    metadata = pod["metadata"]
    volumes = []
    for volume in pod["spec"].get("volumes") or []:
        claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        found = store.find(CLAIMS, metadata["namespace"], claim) if claim else None
        if found:
            asked = ((found["spec"].get("resources") or {}).get("requests") or {}).get("storage", "1Gi")
            share = settings.claims.get(f"{metadata['namespace']}/{claim}", 0.4)
            stats = _filesystem(int(quantities.number(asked)), share)
            reference = {"name": claim, "namespace": metadata["namespace"]}
            volumes.append({**stats, "name": volume["name"], "pvcRef": reference})
    return {
        "podRef": {key: metadata[key] for key in ("name", "namespace", "uid")},
        "startTime": pod["status"].get("startTime"),
        "cpu": {"time": clock.now(), "usageNanoCores": int(pod_usage(store, settings, pod, "cpu") * 1e9)},
        "memory": {"time": clock.now(), "workingSetBytes": int(pod_usage(store, settings, pod, "memory"))},
        "volume": volumes,
    }
