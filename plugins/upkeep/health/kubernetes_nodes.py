"""The nodes, and how much of them and of their containers' limits is in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from upkeep.findings import Finding, Outcome, Severity, judged
from upkeep.health.kubernetes_workloads import owner
from upkeep.platforms.services import Kubernetes

Object = Mapping[str, Any]

NODES_SEVERITY = Severity.P1
CORDONED_SEVERITY = Severity.P4
USAGE_UNKNOWN = Severity.P3

PRESSURE = ("DiskPressure", "MemoryPressure", "PIDPressure", "NetworkUnavailable")
RESOURCES = ("cpu", "memory")


def nodes(found: Sequence[Object]) -> Outcome:
    """Nodes that are not ready, short of something, or closed for new pods."""
    findings = []
    for node in found:
        name = node["metadata"]["name"]
        conditions = {each["type"]: each for each in (node.get("status") or {}).get("conditions") or ()}
        wrong = [kind for kind in PRESSURE if conditions.get(kind, {}).get("status") == "True"]
        ready = conditions.get("Ready", {})
        if ready.get("status") != "True":
            wrong.insert(0, f"NotReady ({ready.get('reason') or 'it never said so'})")
        since = min(
            (
                str(each.get("lastTransitionTime"))
                for kind, each in conditions.items()
                if kind in wrong or (kind == "Ready" and ready.get("status") != "True")
            ),
            default="",
        )
        cordoned = bool((node.get("spec") or {}).get("unschedulable"))
        if wrong:
            findings.append(
                Finding(
                    check="nodes",
                    object=name,
                    severity=NODES_SEVERITY,
                    summary=f"node {name}: {', '.join(wrong)} since {since}{', cordoned' if cordoned else ''}",
                    hint=f"`kubectl describe node {name}`; its pods are evicted after a while, if others have room.",
                    facts={"conditions": wrong, "since": since, "cordoned": cordoned},
                )
            )
        elif cordoned:
            findings.append(
                Finding(
                    check="nodes",
                    object=name,
                    severity=CORDONED_SEVERITY,
                    summary=f"node {name} is cordoned: it takes no new pods",
                    hint=f"`kubectl uncordon {name}` when its maintenance is over.",
                )
            )
    return judged("nodes", NODES_SEVERITY, findings, nodes=len(found))


def usage(
    settings: Kubernetes,
    found: Sequence[Object],
    node_metrics: Sequence[Object],
    pods: Sequence[Object],
    pod_metrics: Sequence[Object],
) -> Outcome:
    """CPU and memory: of each node's allocatable, and of each container's limit (the fullest of its pods)."""
    node_shares = _node_shares(found, node_metrics)
    container_shares = _container_shares(pods, pod_metrics)
    findings = []
    for shares, of in ((node_shares, "allocatable {} of node {}"), (container_shares, "{} limit of {}")):
        for object, share in sorted(shares.items()):
            severity = settings.usage.severity(share)
            if severity:
                where, _, resource = object.rpartition("/")
                findings.append(
                    Finding(
                        check="usage",
                        object=object,
                        severity=severity,
                        summary=f"{share:.0%} of the {of.format(resource, where)} is in use",
                        hint="compare requests and limits with what it used over the last week, then raise or spread.",
                        facts={"share": share},
                    )
                )
    requests = _request_shares(pods, pod_metrics)
    return judged("usage", USAGE_UNKNOWN, findings, nodes=node_shares, containers=container_shares, requests=requests)


def _node_shares(found: Sequence[Object], metrics: Sequence[Object]) -> dict[str, float]:
    """``{"node-1/cpu": 0.42}``"""
    allocatable = {node["metadata"]["name"]: node["status"].get("allocatable") or {} for node in found}
    return {
        f"{each['metadata']['name']}/{resource}": share
        for each in metrics
        for resource in RESOURCES
        if (share := _share(each.get("usage"), allocatable.get(each["metadata"]["name"]), resource)) is not None
    }


def _container_shares(pods: Sequence[Object], metrics: Sequence[Object]) -> dict[str, float]:
    """``{"studyspot-api/app/memory": 0.8}``; a container without a limit has no share."""
    by_name = {pod["metadata"]["name"]: pod for pod in pods}
    shares: dict[str, float] = {}
    for each in metrics:
        pod = by_name.get(each["metadata"]["name"])
        if pod is None:
            continue
        limits = {
            container["name"]: (container.get("resources") or {}).get("limits")
            for container in [*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]]
        }
        for container in each.get("containers") or ():
            for resource in RESOURCES:
                share = _share(container.get("usage"), limits.get(container["name"]), resource)
                if share is not None:
                    object = f"{owner(pod)}/{container['name']}/{resource}"
                    shares[object] = max(share, shares.get(object, 0.0))
    return shares


def _request_shares(pods: Sequence[Object], metrics: Sequence[Object]) -> dict[str, float]:
    """``{"studyspot-api/app/cpu": 0.3}``: what all pods of a workload use, of what they request."""
    used_by = {
        (each["metadata"]["name"], container["name"]): container.get("usage") or {}
        for each in metrics
        for container in each.get("containers") or ()
    }
    sums: dict[str, tuple[float, float]] = {}
    for pod in pods:
        for container in pod["spec"]["containers"]:
            requests = (container.get("resources") or {}).get("requests") or {}
            used = used_by.get((pod["metadata"]["name"], container["name"]))
            for resource in RESOURCES:
                if used is None or resource not in requests or resource not in used:
                    continue
                object = f"{owner(pod)}/{container['name']}/{resource}"
                uses, requested = sums.get(object, (0.0, 0.0))
                sums[object] = (
                    uses + float(parse_quantity(used[resource])),
                    requested + float(parse_quantity(requests[resource])),
                )
    return {object: round(used / requested, 4) for object, (used, requested) in sums.items() if requested > 0}


def _share(used: Object | None, most: Object | None, resource: str) -> float | None:
    if not used or not most or resource not in used or resource not in most:
        return None
    limit = float(parse_quantity(most[resource]))
    return round(float(parse_quantity(used[resource])) / limit, 4) if limit > 0 else None
