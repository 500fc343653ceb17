"""What runs in a namespace: pods by their owner, Deployments that must be there, Services that need endpoints."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from upkeep.findings import Finding, Outcome, Severity, judged
from upkeep.platforms.base import format_duration
from upkeep.platforms.services import Deployment, Kubernetes

Object = Mapping[str, Any]

PODS_SEVERITY = Severity.P2
"""Of pods that do not work and belong to no Deployment the platform file names."""

LEFTOVER_SEVERITY = Severity.P3
"""Of pods that failed or were evicted, while their owner has replaced them."""

HOUR = timedelta(hours=1)
UNSCHEDULABLE = timedelta(minutes=1)
"""The scheduler tries again within seconds; a cluster autoscaler sees the pod after ten."""

BROKEN = (
    "CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName",
    "CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError",
)  # fmt: skip
"""Reasons of a waiting container that no waiting mends."""

SCALED = "upkeep.dev/before-scaling"
"""Annotation that remembers, where nobody can lose it, what is to be put back: ``{"was": 2, "now": 5, "until": …}``."""

OVERDUE = timedelta(minutes=10)
"""Whoever puts a scaling back wakes within a minute of its end, and may have to try again."""

_CRON_RUN = re.compile(r"-\d{8,10}$")
"""A CronJob's Jobs are called after their minute; the finding is the CronJob's."""


# -- pods ----------------------------------------------------------------------------------------------


def pods(settings: Kubernetes, found: Sequence[Object], now: datetime) -> Outcome:
    """Pods that do not do what they are there for, one finding per owner."""
    by_owner: dict[str, list[Object]] = defaultdict(list)
    for pod in found:
        by_owner[owner(pod)].append(pod)
    named = {deployment.name: deployment.severity for deployment in settings.deployments}
    findings = []
    for name, theirs in sorted(by_owner.items()):
        broken = named.get(name, PODS_SEVERITY)
        wrong = [(pod, *problem) for pod in theirs for problem in _problems(settings, pod, now, broken)]
        if not wrong:
            continue
        counts = Counter(problem for _, _, problem in wrong)
        findings.append(
            Finding(
                check="pods",
                object=name,
                severity=min((severity for _, severity, _ in wrong), key=lambda s: s.rank),
                summary="; ".join(f"{count} of {len(theirs)} pods: {problem}" for problem, count in counts.items()),
                hint=f"`kubectl -n {settings.namespace} describe pod` and `logs --previous` of "
                f"{wrong[0][0]['metadata']['name']} tell why.",
                facts={"pods": sorted({pod["metadata"]["name"] for pod, _, _ in wrong})[:20], "problems": dict(counts)},
            )
        )
    return judged("pods", PODS_SEVERITY, findings, pods=len(found))


def owner(pod: Object) -> str:
    """Name of the Deployment, StatefulSet, DaemonSet, CronJob or Job behind a pod; its own when nobody is."""
    metadata = pod["metadata"]
    for reference in metadata.get("ownerReferences") or ():
        if not reference.get("controller"):
            continue
        name = str(reference["name"])
        if reference["kind"] == "ReplicaSet":
            template = (metadata.get("labels") or {}).get("pod-template-hash", "")
            return name.removesuffix(f"-{template}") if template else name
        return _CRON_RUN.sub("", name) if reference["kind"] == "Job" else name
    return str(metadata["name"])


def _problems(settings: Kubernetes, pod: Object, now: datetime, broken: Severity) -> list[tuple[Severity, str]]:
    """What is wrong with one pod: severity and text; the text is the same for all pods with the same trouble."""
    status = pod.get("status") or {}
    phase = status.get("phase")
    if deleted := time_of(pod["metadata"].get("deletionTimestamp")):
        # The timestamp is when its grace ends, not when it was asked for.
        if now - deleted > settings.unready:
            return [(LEFTOVER_SEVERITY, f"still terminating {format_duration(settings.unready)} after its grace ended")]
        return []
    if phase == "Succeeded":
        return []
    if phase == "Failed":
        # Older ones are history, and the clean-up's business.
        recent = now - _ended(pod) <= settings.finished_ttl
        return [(LEFTOVER_SEVERITY, str(status.get("reason") or "Failed"))] if recent else []
    found: list[tuple[Severity, str]] = []
    for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        found += _container(settings, pod, container, now, broken)
    if found:
        return found
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    scheduled, ready = conditions.get("PodScheduled", {}), conditions.get("Ready", {})
    born = time_of(pod["metadata"].get("creationTimestamp")) or now
    if (
        scheduled.get("status") == "False"
        and now - (time_of(scheduled.get("lastTransitionTime")) or born) > UNSCHEDULABLE
    ):
        why = " ".join(str(scheduled.get("message") or "").split())[:160]
        return [(broken, f"{scheduled.get('reason') or 'not scheduled'}{': ' + why if why else ''}")]
    if ready.get("status") != "True" and now - (time_of(ready.get("lastTransitionTime")) or born) > settings.unready:
        return [(broken, f"{phase} but not ready for more than {format_duration(settings.unready)}")]
    return []


def _ended(pod: Object) -> datetime:
    """When a finished pod's last container ended; an evicted one has none, so when it began."""
    status = pod.get("status") or {}
    ends = [
        time_of((((each.get("state") or {}).get("terminated")) or {}).get("finishedAt"))
        for each in status.get("containerStatuses") or ()
    ]
    known = [end for end in ends if end]
    born = time_of(status.get("startTime")) or time_of(pod["metadata"].get("creationTimestamp"))
    return max(known) if known else born or datetime.now(UTC)


def _container(
    settings: Kubernetes, pod: Object, container: Object, now: datetime, broken: Severity
) -> list[tuple[Severity, str]]:
    waiting = (container.get("state") or {}).get("waiting") or {}
    restarts = int(container.get("restartCount") or 0)
    if waiting.get("reason") in BROKEN:
        again = f" after {restarts} restarts" if restarts else ""
        return [(broken, f"{waiting['reason']}{again} (container {container['name']})")]
    ended = ((container.get("lastState") or {}).get("terminated")) or {}
    finished = time_of(ended.get("finishedAt"))
    if finished is None or now - finished > HOUR:
        return []
    if ended.get("reason") == "OOMKilled":
        return [(PODS_SEVERITY, f"OOMKilled within the last hour (container {container['name']})")]
    # The API counts restarts since the pod began, not those of the last hour: their mean per hour stands for it.
    born = time_of(pod["metadata"].get("creationTimestamp")) or now
    hours = max(1.0, (now - born) / HOUR)
    if restarts / hours >= settings.restarts:
        return [(PODS_SEVERITY, f"{restarts} restarts in {hours:.0f} h (container {container['name']})")]
    return []


# -- Deployments ---------------------------------------------------------------------------------------


def lagging(settings: Kubernetes, found: Sequence[Object]) -> bool:
    """Whether the controller has not yet seen the newest spec of a Deployment that matters."""
    named = {deployment.name for deployment in settings.deployments}
    return any(_lag(each) for each in found if each["metadata"]["name"] in named)


def _lag(deployment: Object) -> int:
    status = deployment.get("status") or {}
    return int(deployment["metadata"].get("generation") or 0) - int(status.get("observedGeneration") or 0)


def deployments(settings: Kubernetes, found: Sequence[Object]) -> Outcome:
    """The Deployments that the platform file names."""
    by_name = {each["metadata"]["name"]: each for each in found}
    findings = [
        Finding(
            check="deployments",
            object=wanted.name,
            severity=wanted.severity,
            summary=summary,
            hint=f"`kubectl -n {settings.namespace} describe deployment {wanted.name}` shows conditions and events.",
            facts=facts,
        )
        for wanted in settings.deployments
        for summary, facts in _judge(wanted, by_name.get(wanted.name))
    ]
    worst = min((wanted.severity for wanted in settings.deployments), key=lambda s: s.rank, default=PODS_SEVERITY)
    return judged("deployments", worst, findings, deployments=len(settings.deployments))


def _judge(wanted: Deployment, found: Object | None) -> list[tuple[str, dict[str, Any]]]:
    if found is None:
        return [(f"there is no deployment {wanted.name}", {})]
    status, desired = found.get("status") or {}, int(found["spec"].get("replicas", 1))
    available = int(status.get("availableReplicas") or 0)
    facts = {
        "replicas": desired,
        "available": available,
        "updated": int(status.get("updatedReplicas") or 0),
        "generation": found["metadata"].get("generation"),
        "observed_generation": status.get("observedGeneration"),
    }
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    wrong = []
    if available < wanted.least:
        wrong.append(f"{available} of {desired} replicas are available, {wanted.least} is the least")
    elif conditions.get("Available", {}).get("status") == "False":
        wrong.append(f"{available} of {desired} replicas are available")
    if conditions.get("Progressing", {}).get("reason") == "ProgressDeadlineExceeded":
        wrong.append(f"its rollout is stuck: {facts['updated']} of {desired} replicas are updated")
    if lag := _lag(found):
        wrong.append(f"the controller has not seen its last {lag} {'change' if lag == 1 else 'changes'}")
    return [(f"{wanted.name}: {'; '.join(wrong)}", facts)] if wrong else []


def scaling(settings: Kubernetes, found: Sequence[Object], scalers: Sequence[Object], now: datetime) -> Outcome:
    """What an incident scaled up and nobody put back when its time was over: its run was deleted, or failed."""
    findings = []
    for kind, each in [*(("deployment", one) for one in found), *(("autoscaler", one) for one in scalers)]:
        memory = _memory((each["metadata"].get("annotations") or {}).get(SCALED))
        if memory is None or now - memory[2] < OVERDUE:
            continue
        name, (was, new, until) = each["metadata"]["name"], memory
        findings.append(
            Finding(
                check="scaling",
                object=f"{kind} {name}",
                severity=PODS_SEVERITY,
                summary=f"{kind} {name} was scaled from {was} to {new} until {until:%Y-%m-%d %H:%M} UTC, and nobody put"
                " it back",
                hint="clear the task `put_back` of the run of `incident_response` that scaled it; or scale by hand and"
                f" remove the annotation {SCALED}.",
                facts={"was": was, "now": new, "until": until.isoformat()},
            )
        )
    # Only where there is room to scale: one that is pinned (minReplicas = maxReplicas) is always there.
    at_most = {
        each["metadata"]["name"]: float(
            ((each.get("status") or {}).get("currentReplicas") or 0) >= each["spec"]["maxReplicas"]
        )
        for each in scalers
        if each["spec"]["maxReplicas"] > (each["spec"].get("minReplicas") or 1)
    }
    return judged("scaling", PODS_SEVERITY, findings, at_most=at_most)


def _memory(text: Any) -> tuple[int, int, datetime] | None:
    """What ``SCALED`` says; None for nothing, and for what somebody else wrote there."""
    try:
        said = json.loads(text)
        return int(said["was"]), int(said["now"]), datetime.fromisoformat(said["until"]).astimezone(UTC)
    except (TypeError, ValueError, KeyError):
        return None


# -- Services ------------------------------------------------------------------------------------------


def services(settings: Kubernetes, found: Sequence[Object], slices: Sequence[Object]) -> Outcome:
    """Services that select pods and have none that is ready: whoever calls them gets an error."""
    ready: Counter[str] = Counter()
    known: Counter[str] = Counter()
    for each in slices:
        service = (each["metadata"].get("labels") or {}).get("kubernetes.io/service-name", "")
        for endpoint in each.get("endpoints") or ():
            known[service] += 1
            # Absent means ready, says the API.
            ready[service] += (endpoint.get("conditions") or {}).get("ready") is not False
    findings, selecting = [], 0
    for service in found:
        spec, name = service.get("spec") or {}, service["metadata"]["name"]
        if spec.get("type") == "ExternalName" or not spec.get("selector"):
            continue
        selecting += 1
        if ready[name] == 0:
            selector = ",".join(f"{key}={value}" for key, value in sorted(spec["selector"].items()))
            findings.append(
                Finding(
                    check="services",
                    object=name,
                    severity=settings.severity,
                    summary=f"service {name} has no ready endpoint ({known[name]} not ready; selector {selector})",
                    hint=f"compare its selector with `kubectl -n {settings.namespace} get pods --show-labels`.",
                    facts={"selector": dict(spec["selector"]), "endpoints": known[name]},
                )
            )
    return judged("services", settings.severity, findings, services=selecting)


def time_of(text: Any) -> datetime | None:
    """``2026-11-22T10:00:00Z`` → datetime; None for none."""
    if not text:
        return None
    return datetime.fromisoformat(str(text).replace("Z", "+00:00")).astimezone(UTC)
