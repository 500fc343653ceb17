"""The Deployment controller: rollouts through ReplicaSets, with surge, history, conditions and deadline."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

from sandbox.kubernetes import clock
from sandbox.kubernetes.conditions import condition, made
from sandbox.kubernetes.events import record
from sandbox.kubernetes.quantities import scaled
from sandbox.kubernetes.replicas import for_each
from sandbox.kubernetes.resources import DEPLOYMENTS, PODS, REPLICA_SETS
from sandbox.kubernetes.store import Store, owner_reference

Object = dict[str, Any]

REVISION = "deployment.kubernetes.io/revision"
HASH = "pod-template-hash"
_NOT_COPIED = {REVISION, "kubectl.kubernetes.io/last-applied-configuration", "deprecated.deployment.rollback.to"}


def sync_deployments(store: Store) -> None:
    for_each(store, DEPLOYMENTS, _sync)


def _sync(store: Store, deployment: Object) -> None:
    mine = store.owned(REPLICA_SETS, deployment)
    current = next((each for each in mine if _same_template(each, deployment)), None)
    if deployment["spec"].get("paused"):
        if current:
            _scale(store, deployment, current, _wanted(deployment) - _total(mine, besides=current))
    else:
        current = _newest(store, deployment, mine, current)
        mine = store.owned(REPLICA_SETS, deployment)
        others = [each for each in mine if each["metadata"]["uid"] != current["metadata"]["uid"]]
        if deployment["spec"]["strategy"]["type"] == "Recreate":
            _recreate(store, deployment, current, others)
        else:
            _roll(store, deployment, current, others)
        _forget_old(store, deployment, others)
    _report(store, deployment, current)


def _wanted(deployment: Object) -> int:
    return int(deployment["spec"]["replicas"])


def _total(sets: list[Object], *, besides: Object | None = None) -> int:
    return sum(each["spec"]["replicas"] for each in sets if each is not besides)


def _bare(template: Object) -> Object:
    bare = copy.deepcopy(template)
    bare["metadata"].get("labels", {}).pop(HASH, None)
    return bare


def _same_template(replica_set: Object, deployment: Object) -> bool:
    return _bare(replica_set["spec"]["template"]) == _bare(deployment["spec"]["template"])


def _revision(replica_set: Object) -> int:
    return int((replica_set["metadata"].get("annotations") or {}).get(REVISION, 0))


def _newest(store: Store, deployment: Object, mine: list[Object], current: Object | None) -> Object:
    """The ReplicaSet of the present template, made or found again, carrying the highest revision."""
    highest = max(map(_revision, mine), default=0)
    notes = {
        key: value for key, value in (deployment["metadata"].get("annotations") or {}).items() if key not in _NOT_COPIED
    }
    if current is None:
        current = _create(store, deployment, {**notes, REVISION: str(highest + 1)})
    elif _revision(current) < highest:
        # A rollback: the old ReplicaSet becomes the newest one.
        current = store.edit(
            REPLICA_SETS,
            current,
            lambda new: new["metadata"].setdefault("annotations", {}).update({**notes, REVISION: str(highest + 1)}),
        )
    number = str(_revision(current))
    store.edit(
        DEPLOYMENTS, deployment, lambda new: new["metadata"].setdefault("annotations", {}).update({REVISION: number})
    )
    return current


def _create(store: Store, deployment: Object, notes: dict[str, str]) -> Object:
    spec, metadata = deployment["spec"], deployment["metadata"]
    template = copy.deepcopy(spec["template"])
    text = json.dumps(template, sort_keys=True) + metadata["uid"]
    mark = hashlib.sha256(text.encode()).hexdigest()[:10]
    template["metadata"].setdefault("labels", {})[HASH] = mark
    selector = copy.deepcopy(spec["selector"])
    selector.setdefault("matchLabels", {})[HASH] = mark
    return store.create(
        REPLICA_SETS,
        metadata["namespace"],
        {
            "metadata": {
                "name": f"{metadata['name']}-{mark}",
                "labels": dict(template["metadata"]["labels"]),
                "annotations": notes,
                "ownerReferences": [owner_reference(deployment)],
            },
            "spec": {
                "replicas": 0,
                "selector": selector,
                "template": template,
                "minReadySeconds": spec.get("minReadySeconds", 0),
            },
        },
    )


def _scale(store: Store, deployment: Object, replica_set: Object, replicas: int) -> Object:
    replicas = max(0, replicas)
    before = replica_set["spec"]["replicas"]
    if replicas == before:
        return replica_set
    way = "up" if replicas > before else "down"
    message = f"Scaled {way} replica set {replica_set['metadata']['name']} from {before} to {replicas}"
    record(store, deployment, "Normal", "ScalingReplicaSet", message, component="deployment-controller")
    return store.edit(REPLICA_SETS, replica_set, lambda new: new["spec"].update(replicas=replicas))


def _bounds(deployment: Object) -> tuple[int, int]:
    """How many pods there may be beyond the wanted ones, and how many may be missing."""
    rolling = deployment["spec"]["strategy"].get("rollingUpdate") or {}
    wanted = _wanted(deployment)
    surge = scaled(rolling.get("maxSurge", "25%"), wanted, up=True)
    missing = scaled(rolling.get("maxUnavailable", "25%"), wanted, up=False)
    return surge, missing if surge or missing else 1


def _available(sets: list[Object]) -> int:
    return sum((each.get("status") or {}).get("availableReplicas", 0) for each in sets)


def _roll(store: Store, deployment: Object, current: Object, others: list[Object]) -> None:
    wanted, (surge, missing) = _wanted(deployment), _bounds(deployment)
    room = wanted + surge - _total([current, *others])
    if current["spec"]["replicas"] > wanted:
        current = _scale(store, deployment, current, wanted)
    elif room > 0:
        current = _scale(store, deployment, current, min(wanted, current["spec"]["replicas"] + room))
    unavailable = current["spec"]["replicas"] - _available([current])
    spare = _total([current, *others]) - (wanted - missing) - unavailable
    # Pods that are ill anyway go first, then as many well ones as may be missing.
    for at, old in enumerate(others):
        ill = old["spec"]["replicas"] - _available([old])
        if spare > 0 and ill > 0:
            others[at] = _scale(store, deployment, old, old["spec"]["replicas"] - min(ill, spare))
            spare -= min(ill, spare)
    spare = min(spare, _available([current, *others]) - (wanted - missing))
    for old in sorted(others, key=_revision):
        if spare > 0 and old["spec"]["replicas"]:
            less = min(spare, old["spec"]["replicas"])
            _scale(store, deployment, old, old["spec"]["replicas"] - less)
            spare -= less


def _recreate(store: Store, deployment: Object, current: Object, others: list[Object]) -> None:
    for old in others:
        _scale(store, deployment, old, 0)
    if not any(store.owned(PODS, old) for old in others):
        _scale(store, deployment, current, _wanted(deployment))


def _forget_old(store: Store, deployment: Object, others: list[Object]) -> None:
    """Keep ``revisionHistoryLimit`` old ReplicaSets; 0 makes rollbacks impossible."""
    idle = [each for each in others if not each["spec"]["replicas"] and not (each.get("status") or {}).get("replicas")]
    for old in sorted(idle, key=_revision)[: max(0, len(idle) - deployment["spec"]["revisionHistoryLimit"])]:
        store.delete(REPLICA_SETS, old)


def _report(store: Store, deployment: Object, current: Object | None) -> None:
    mine = store.owned(REPLICA_SETS, deployment)
    newest = next((each for each in mine if current and each["metadata"]["uid"] == current["metadata"]["uid"]), None)
    wanted, (_, missing) = _wanted(deployment), _bounds(deployment)

    def count(sets: list[Object], field: str) -> int:
        return sum((each.get("status") or {}).get(field, 0) for each in sets)

    total, available = count(mine, "replicas"), count(mine, "availableReplicas")
    status = {
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": total,
        "updatedReplicas": count([newest], "replicas") if newest else 0,
        "readyReplicas": count(mine, "readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": max(0, wanted - available, total - available),
    }
    enough = available >= wanted - missing
    old = (deployment.get("status") or {}).get("conditions") or []
    name = "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable"
    message = f"Deployment {'has' if enough else 'does not have'} minimum availability."
    conditions = [made(old, "Available", enough, name, message, updated=True)]
    if deployment["spec"].get("paused"):
        conditions.append(made(old, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", updated=True))
    elif newest:
        conditions.append(_progress(deployment, newest, status, old))
    # Zero counts are left out, as the real server's omitempty does; clients read them as null.
    kept = {key: value for key, value in status.items() if value}
    store.set_status(DEPLOYMENTS, deployment, {**kept, "conditions": conditions})


def _progress(deployment: Object, newest: Object, status: Object, old: list[Object]) -> Object:
    name, wanted = newest["metadata"]["name"], _wanted(deployment)
    if status["updatedReplicas"] == status["availableReplicas"] == status["replicas"] == wanted:
        message = f'ReplicaSet "{name}" has successfully progressed.'
        return made(old, "Progressing", True, "NewReplicaSetAvailable", message, updated=True)
    before = condition(deployment, "Progressing")
    was = deployment.get("status") or {}
    counts = ("updatedReplicas", "readyReplicas", "availableReplicas")
    moved = any(status[each] > was.get(each, 0) for each in counts) or status["replicas"] < was.get("replicas", 0)
    same = name in before.get("message", "")
    # What was complete stays so when a pod falls ill later: only a new template starts the clock again.
    if same and before.get("reason") == "NewReplicaSetAvailable":
        return before
    late = f'ReplicaSet "{name}" has timed out progressing.'
    if same and not moved:
        waited = clock.seconds_since(before["lastUpdateTime"])
        if before["reason"] == "ProgressDeadlineExceeded" or waited > deployment["spec"]["progressDeadlineSeconds"]:
            return made(old, "Progressing", False, "ProgressDeadlineExceeded", late, updated=True)
        return before
    message = f'ReplicaSet "{name}" is progressing.'
    progressing = made(old, "Progressing", True, "ReplicaSetUpdated", message, updated=True)
    return {**progressing, "lastUpdateTime": clock.now()} if moved else progressing
