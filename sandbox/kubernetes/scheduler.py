"""The scheduler: gives pods a node that is ready, has room and is not cordoned."""

from __future__ import annotations

from typing import Any

from sandbox.kubernetes.conditions import is_active, made, node_ready
from sandbox.kubernetes.events import record
from sandbox.kubernetes.quantities import number
from sandbox.kubernetes.resources import NODES, PODS
from sandbox.kubernetes.store import Store

Object = dict[str, Any]

UNSCHEDULABLE = "sandbox/unschedulable"
"""Annotation of a pod that no node is to take."""


def schedule(store: Store) -> None:
    """Bind every pod that waits; say of the others why not."""
    pods = store.all(PODS)
    waiting = [pod for pod in pods if is_active(pod) and not pod["spec"].get("nodeName")]
    if not waiting:
        return
    nodes = store.all(NODES)
    load = {node["metadata"]["name"]: [pod for pod in pods if _on(pod, node)] for node in nodes}
    for pod in waiting:
        refusals = {node["metadata"]["name"]: _refusal(pod, node, load[node["metadata"]["name"]]) for node in nodes}
        fitting = [name for name, why in refusals.items() if not why]
        if fitting:
            chosen = min(fitting, key=lambda name: len(load[name]))
            load[chosen].append(_bind(store, pod, chosen))
        else:
            _tell(store, pod, list(refusals.values()))


def _on(pod: Object, node: Object) -> bool:
    return is_active(pod) and pod["spec"].get("nodeName") == node["metadata"]["name"]


def requests(pod: Object, what: str) -> float:
    """Cores or bytes that the pod's containers ask for."""
    return sum(
        number((container.get("resources", {}).get("requests") or {}).get(what, 0))
        for container in pod["spec"]["containers"]
    )


def _refusal(pod: Object, node: Object, there: list[Object]) -> str:
    spec = node.get("spec") or {}
    labels = node["metadata"].get("labels") or {}
    if (pod["metadata"].get("annotations") or {}).get(UNSCHEDULABLE):
        return "Insufficient cpu"
    if not node_ready(node):
        return "node(s) had untolerated taint {node.kubernetes.io/not-ready: }"
    if spec.get("unschedulable"):
        return "node(s) were unschedulable"
    for taint in spec.get("taints") or []:
        if taint["effect"] != "PreferNoSchedule" and not _tolerated(pod, taint):
            return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
    if any(labels.get(key) != value for key, value in (pod["spec"].get("nodeSelector") or {}).items()):
        return "node(s) didn't match Pod's node affinity/selector"
    allocatable = node["status"].get("allocatable") or {}
    if len(there) >= number(allocatable.get("pods", 110)):
        return "Too many pods"
    for what in ("cpu", "memory"):
        taken = sum(requests(other, what) for other in there)
        if what in allocatable and taken + requests(pod, what) > number(allocatable[what]):
            return f"Insufficient {what}"
    return ""


def _tolerated(pod: Object, taint: Object) -> bool:
    return any(
        toleration.get("key") in (None, "", taint["key"])
        and toleration.get("effect") in (None, "", taint["effect"])
        and (toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", ""))
        for toleration in pod["spec"].get("tolerations") or []
    )


def _bind(store: Store, pod: Object, node: str) -> Object:
    def bind(new: Object) -> None:
        new["spec"]["nodeName"] = node
        old = new["status"].get("conditions") or []
        new["status"]["conditions"] = [made(old, "PodScheduled", True)]

    bound = store.edit(PODS, pod, bind)
    metadata = pod["metadata"]
    message = f"Successfully assigned {metadata['namespace']}/{metadata['name']} to {node}"
    record(store, bound, "Normal", "Scheduled", message, component="default-scheduler")
    return bound


def _tell(store: Store, pod: Object, refusals: list[str]) -> None:
    counts = {why: refusals.count(why) for why in sorted(set(refusals))}
    listed = ", ".join(f"{count} {why}" for why, count in counts.items())
    message = f"0/{len(refusals)} nodes are available: {listed}."
    old = pod["status"].get("conditions") or []
    told = made(old, "PodScheduled", False, "Unschedulable", message)
    if old != [told]:
        store.edit(PODS, pod, lambda new: new["status"].update(conditions=[told]))
        record(store, pod, "Warning", "FailedScheduling", message, component="default-scheduler")
