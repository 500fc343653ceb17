"""The ReplicaSet controller, and what other workloads share with it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from sandbox.kubernetes.conditions import is_active, is_available, is_ready, is_terminating
from sandbox.kubernetes.errors import ApiError
from sandbox.kubernetes.events import record
from sandbox.kubernetes.resources import PODS, REPLICA_SETS, Resource
from sandbox.kubernetes.store import Store, owner_reference

Object = dict[str, Any]


def for_each(store: Store, resource: Resource, sync: Callable[[Store, Object], None]) -> None:
    """Sync every object of a kind; one whose pods are refused gets an event and does not stop the others."""
    for obj in store.all(resource):
        if not is_terminating(obj):
            try:
                sync(store, obj)
            except ApiError as refused:
                component = f"{resource.kind.lower()}-controller"
                record(store, obj, "Warning", "FailedCreate", refused.message, component=component)


def sync_replica_sets(store: Store) -> None:
    for_each(store, REPLICA_SETS, _sync)


def _sync(store: Store, replica_set: Object) -> None:
    spec, name = replica_set["spec"], replica_set["metadata"]["name"]
    active = [pod for pod in store.owned(PODS, replica_set) if is_active(pod)]
    for _ in range(spec["replicas"] - len(active)):
        active.append(create_pod(store, replica_set, spec["template"], generate_name=f"{name}-"))
    for pod in sorted(active, key=deletion_order)[: max(0, len(active) - spec["replicas"])]:
        store.delete(PODS, pod)
        active.remove(pod)
        record(
            store,
            replica_set,
            "Normal",
            "SuccessfulDelete",
            f"Deleted pod: {pod['metadata']['name']}",
            component="replicaset-controller",
        )
    least = spec.get("minReadySeconds", 0)
    counts = {
        "fullyLabeledReplicas": len(active),
        "readyReplicas": sum(map(is_ready, active)),
        "availableReplicas": sum(is_available(pod, least) for pod in active),
    }
    # Counts of zero are left out, as the real server does; clients read them as null.
    status = {key: value for key, value in counts.items() if value}
    observed = {"replicas": len(active), "observedGeneration": replica_set["metadata"]["generation"]}
    store.set_status(REPLICA_SETS, replica_set, {**status, **observed})


def deletion_order(pod: Object) -> tuple[bool, bool, int, str]:
    """Which pod goes first: not bound, not ready, restarted most, youngest."""
    restarts = sum(each["restartCount"] for each in pod["status"].get("containerStatuses") or [])
    age = pod["metadata"]["creationTimestamp"]
    return bool(pod["spec"].get("nodeName")), is_ready(pod), -restarts, "".join(chr(255 - ord(each)) for each in age)


def create_pod(
    store: Store,
    owner: Object,
    template: Object,
    *,
    generate_name: str = "",
    name: str = "",
    labels: dict[str, str] | None = None,
    change: Callable[[Object], None] | None = None,
) -> Object:
    """A pod from a workload's template, owned by it."""
    given = template.get("metadata") or {}
    metadata: Object = {
        "labels": {**(given.get("labels") or {}), **(labels or {})},
        "annotations": dict(given.get("annotations") or {}),
        "ownerReferences": [owner_reference(owner)],
    }
    metadata.update({"name": name} if name else {"generateName": generate_name})
    pod = {"metadata": metadata, "spec": copy.deepcopy(template["spec"])}
    if change:
        change(pod)
    made = store.create(PODS, owner["metadata"]["namespace"], pod)
    controller = f"{owner['kind'].lower()}-controller"
    message = f"Created pod: {made['metadata']['name']}"
    record(store, owner, "Normal", "SuccessfulCreate", message, component=controller)
    return made
