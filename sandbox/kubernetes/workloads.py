"""Basic controllers of StatefulSets, DaemonSets and Jobs."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

from sandbox.kubernetes import clock
from sandbox.kubernetes.conditions import condition, is_active, is_ready, is_terminating, made, node_ready
from sandbox.kubernetes.events import record
from sandbox.kubernetes.replicas import create_pod, for_each
from sandbox.kubernetes.resources import CLAIMS, DAEMON_SETS, JOBS, NODES, PODS, STATEFUL_SETS
from sandbox.kubernetes.store import Store, suffix

Object = dict[str, Any]

_HASH = "controller-revision-hash"


def _template_hash(owner: Object) -> str:
    text = json.dumps(owner["spec"]["template"], sort_keys=True)
    return f"{owner['metadata']['name']}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def _revision(pod: Object) -> str:
    return str((pod["metadata"].get("labels") or {}).get(_HASH, ""))


# -- StatefulSets ------------------------------------------------------------------------------------------


def sync_stateful_sets(store: Store) -> None:
    for_each(store, STATEFUL_SETS, _sync_stateful_set)


def _sync_stateful_set(store: Store, owner: Object) -> None:
    spec, name, revision = owner["spec"], owner["metadata"]["name"], _template_hash(owner)
    pods = {pod["metadata"]["name"]: pod for pod in store.owned(PODS, owner)}
    names = [f"{name}-{at}" for at in range(spec["replicas"])]
    # One after the other: the next starts when all before it are ready.
    for each in names:
        if each not in pods:
            pods[each] = _stateful_pod(store, owner, each, revision)
        if spec["podManagementPolicy"] == "OrderedReady" and not is_ready(pods[each]):
            break
    for each in sorted(set(pods) - set(names), key=lambda text: int(text.rpartition("-")[2]))[-1:]:
        if not is_terminating(pods[each]):
            store.delete(PODS, pods[each])
    partition = (spec["updateStrategy"].get("rollingUpdate") or {}).get("partition", 0)
    steady = all(each in pods and is_ready(pods[each]) and not is_terminating(pods[each]) for each in names)
    outdated = [
        each for at, each in enumerate(names) if at >= partition and each in pods and _revision(pods[each]) != revision
    ]
    if outdated and spec["updateStrategy"]["type"] == "RollingUpdate":
        ill = [each for each in outdated if not is_ready(pods[each]) and not is_terminating(pods[each])]
        for each in ill[-1:] or (outdated[-1:] if steady else []):
            store.delete(PODS, pods[each])
    alive = [pod for pod in pods.values() if not is_terminating(pod)]
    updated = sum(_revision(pod) == revision for pod in alive)
    ready = sum(map(is_ready, alive))
    was = owner.get("status") or {}
    done = updated == spec["replicas"] == ready
    current = len(alive) if done else len(alive) - updated
    store.set_status(
        STATEFUL_SETS,
        owner,
        {
            "observedGeneration": owner["metadata"]["generation"],
            "replicas": len(alive),
            "availableReplicas": ready,
            **({"readyReplicas": ready} if ready else {}),
            **({"updatedReplicas": updated} if updated else {}),
            **({"currentReplicas": current} if current else {}),
            "currentRevision": revision if done else was.get("currentRevision", revision),
            "updateRevision": revision,
            "collisionCount": 0,
        },
    )


def _stateful_pod(store: Store, owner: Object, name: str, revision: str) -> Object:
    namespace = owner["metadata"]["namespace"]
    volumes = []
    for claim in owner["spec"].get("volumeClaimTemplates") or []:
        claim_name = f"{claim['metadata']['name']}-{name}"
        volumes.append({"name": claim["metadata"]["name"], "persistentVolumeClaim": {"claimName": claim_name}})
        if not store.find(CLAIMS, namespace, claim_name):
            labels = dict(owner["spec"]["selector"].get("matchLabels") or {})
            body = {"metadata": {"name": claim_name, "labels": labels}, "spec": copy.deepcopy(claim["spec"])}
            store.create(CLAIMS, namespace, body)
    labels = {
        _HASH: revision,
        "statefulset.kubernetes.io/pod-name": name,
        "apps.kubernetes.io/pod-index": name.rpartition("-")[2],
    }

    def change(pod: Object) -> None:
        pod["spec"]["hostname"] = name
        pod["spec"].setdefault("volumes", []).extend(volumes)

    return create_pod(store, owner, owner["spec"]["template"], name=name, labels=labels, change=change)


# -- DaemonSets --------------------------------------------------------------------------------------------


def sync_daemon_sets(store: Store) -> None:
    for_each(store, DAEMON_SETS, _sync_daemon_set)


def _sync_daemon_set(store: Store, owner: Object) -> None:
    spec, revision = owner["spec"], _template_hash(owner)
    selector = spec["template"]["spec"].get("nodeSelector") or {}
    nodes = [
        node["metadata"]["name"]
        for node in store.all(NODES)
        if selector.items() <= (node["metadata"].get("labels") or {}).items()
    ]
    pods = [pod for pod in store.owned(PODS, owner) if is_active(pod)]
    covered = {pod["spec"].get("nodeName"): pod for pod in pods}
    for node in nodes:
        if node not in covered and node_ready(store.find(NODES, None, node)):

            def pin(pod: Object, to: str = node) -> None:
                pod["spec"]["nodeName"] = to

            name = f"{owner['metadata']['name']}-"
            made_pod = create_pod(
                store, owner, spec["template"], generate_name=name, labels={_HASH: revision}, change=pin
            )
            pods.append(made_pod)
    outdated = [pod for pod in pods if _revision(pod) != revision]
    if outdated and spec["updateStrategy"]["type"] == "RollingUpdate":
        ill = [pod for pod in outdated if not is_ready(pod)]
        for pod in ill[:1] or (outdated[:1] if all(map(is_ready, pods)) else []):
            store.delete(PODS, pod)
    for pod in pods:
        if pod["spec"]["nodeName"] not in nodes:
            store.delete(PODS, pod)
    ready = sum(map(is_ready, pods))
    store.set_status(
        DAEMON_SETS,
        owner,
        {
            "observedGeneration": owner["metadata"]["generation"],
            "desiredNumberScheduled": len(nodes),
            "currentNumberScheduled": len(pods),
            "updatedNumberScheduled": len(pods) - len(outdated),
            "numberReady": ready,
            "numberAvailable": ready,
            "numberUnavailable": len(nodes) - ready,
            "numberMisscheduled": 0,
        },
    )


# -- Jobs --------------------------------------------------------------------------------------------------


def sync_jobs(store: Store) -> None:
    for_each(store, JOBS, _sync_job)


def _finished(job: Object) -> bool:
    return any(condition(job, kind).get("status") == "True" for kind in ("Complete", "Failed"))


def _sync_job(store: Store, job: Object) -> None:
    spec, was = job["spec"], job.get("status") or {}
    if spec.get("suspend") or _finished(job):
        return
    pods = store.owned(PODS, job)
    succeeded = sum(pod["status"]["phase"] == "Succeeded" for pod in pods)
    failed = sum(pod["status"]["phase"] == "Failed" for pod in pods)
    active = [pod for pod in pods if is_active(pod)]
    restarts = sum(each["restartCount"] for pod in active for each in pod["status"].get("containerStatuses") or [])
    started = was.get("startTime") or clock.now()
    deadline = spec.get("activeDeadlineSeconds")
    verdict = None
    if failed + restarts > spec["backoffLimit"]:
        verdict = ("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
    elif deadline and clock.seconds_since(started) > deadline:
        verdict = ("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
    elif succeeded >= spec["completions"]:
        verdict = ("Complete", "CompletionsReached", "Reached expected number of succeeded pods")
    if verdict is None:
        for _ in range(min(spec["parallelism"], spec["completions"] - succeeded) - len(active)):
            active.append(create_pod(store, job, spec["template"], name=f"{job['metadata']['name'][:57]}-{suffix()}"))
    # Counts of zero are left out, as the real server does.
    status: Object = {"startTime": started, "ready": sum(map(is_ready, active))}
    status.update({"active": len(active)} if active else {})
    status.update({"succeeded": succeeded} if succeeded else {})
    status.update({"failed": failed} if failed else {})
    if verdict:
        kind, reason, message = verdict
        for pod in active:
            store.delete(PODS, pod)
        status = {key: value for key, value in status.items() if key not in ("active", "ready")}
        status["conditions"] = [{**made([], kind, True, reason, message), "lastProbeTime": clock.now()}]
        if kind == "Complete":
            status["completionTime"] = clock.now()
        level = "Normal" if kind == "Complete" else "Warning"
        record(store, job, level, "Completed" if kind == "Complete" else reason, message, component="job-controller")
    store.set_status(JOBS, job, {**status, "uncountedTerminatedPods": {}})
