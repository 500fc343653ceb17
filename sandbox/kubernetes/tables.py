"""Tables: what ``kubectl get`` prints. The columns of the kinds one looks at most; name and age of the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from sandbox.kubernetes import clock
from sandbox.kubernetes.conditions import condition, is_terminating
from sandbox.kubernetes.resources import Resource

Object = dict[str, Any]
Cells = Callable[[Object], list[Any]]


def wants_table(headers: Mapping[str, str]) -> bool:
    return bool(re.search(r"as=Table;v=v1;g=meta\.k8s\.io", headers.get("Accept") or ""))


def table(resource: Resource, objects: list[Object], head: Object, include: str) -> Object:
    """:param include: ``Object``, ``Metadata`` or ``None``: what each row carries besides its cells."""
    columns, cells = _COLUMNS.get(resource.kind, ([], lambda obj: []))
    names = ["Name", *columns, "Age"]
    # kubectl shows an event's name and age with -o wide only.
    hidden = {"Name", "Age"} if resource.kind == "Event" else set()
    rows = [
        {"cells": [obj["metadata"]["name"], *cells(obj), _age(obj)], "object": _carried(obj, include)}
        for obj in objects
    ]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": head or {"resourceVersion": objects[0]["metadata"]["resourceVersion"] if objects else ""},
        "columnDefinitions": [
            {
                "name": name,
                "type": "string",
                "format": "name" if name == "Name" else "",
                "description": "",
                "priority": int(name in hidden),
            }
            for name in names
        ],
        "rows": rows,
    }


def _carried(obj: Object, include: str) -> Object | None:
    if include == "None":
        return None
    if include == "Object":
        return obj
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def _age(obj: Object) -> str:
    return clock.age(obj["metadata"]["creationTimestamp"])


def _status(obj: Object, field: str) -> Any:
    return (obj.get("status") or {}).get(field, 0)


def _pod(pod: Object) -> list[Any]:
    status = pod["status"]
    statuses = status.get("containerStatuses") or []
    text = status.get("reason") or status.get("phase", "Pending")
    for each in statuses:
        state = each["state"].get("waiting") or each["state"].get("terminated")
        if state:
            text = state.get("reason") or text
    if is_terminating(pod):
        text = "Terminating"
    ready = f"{sum(each['ready'] for each in statuses)}/{len(pod['spec']['containers'])}"
    return [ready, text, str(sum(each["restartCount"] for each in statuses))]


def _node(node: Object) -> list[Any]:
    text = "Ready" if condition(node, "Ready").get("status") == "True" else "NotReady"
    if (node.get("spec") or {}).get("unschedulable"):
        text += ",SchedulingDisabled"
    roles = [label.rpartition("/")[2] for label in node["metadata"].get("labels") or {} if "node-role" in label]
    return [text, ",".join(sorted(roles)) or "<none>", (node["status"].get("nodeInfo") or {}).get("kubeletVersion", "")]


def _deployment(obj: Object) -> list[Any]:
    ready = f"{_status(obj, 'readyReplicas')}/{obj['spec']['replicas']}"
    return [ready, _status(obj, "updatedReplicas"), _status(obj, "availableReplicas")]


def _job(job: Object) -> list[Any]:
    status = next(
        (kind for kind in ("Complete", "Failed") if condition(job, kind).get("status") == "True"),
        "Suspended" if job["spec"].get("suspend") else "Running",
    )
    return [status, f"{_status(job, 'succeeded')}/{job['spec']['completions']}"]


def _service(service: Object) -> list[Any]:
    spec = service["spec"]
    ports = ",".join(f"{port['port']}/{port['protocol']}" for port in spec.get("ports") or [])
    return [spec["type"], spec.get("clusterIP") or "<none>", "<none>", ports or "<none>"]


def _autoscaler(obj: Object) -> list[Any]:
    spec = obj["spec"]
    target = f"{spec['scaleTargetRef']['kind']}/{spec['scaleTargetRef']['name']}"
    goals = []
    for metric in spec.get("metrics") or []:
        resource = metric.get("resource") or {}
        seen = next(
            (
                each["resource"]["current"].get("averageUtilization")
                for each in _status(obj, "currentMetrics") or []
                if each["resource"]["name"] == resource.get("name")
            ),
            None,
        )
        now = f"{seen}%" if seen is not None else "<unknown>"
        goals.append(f"{resource.get('name')}: {now}/{(resource.get('target') or {}).get('averageUtilization')}%")
    return [target, ", ".join(goals), spec["minReplicas"], spec["maxReplicas"], _status(obj, "currentReplicas")]


def _budget(obj: Object) -> list[Any]:
    spec = obj["spec"]
    bounds = [str(spec.get("minAvailable", "N/A")), str(spec.get("maxUnavailable", "N/A"))]
    return [*bounds, _status(obj, "disruptionsAllowed")]


def _event(event: Object) -> list[Any]:
    about = event["involvedObject"]
    return [
        clock.age(event["lastTimestamp"]) if event.get("lastTimestamp") else "<unknown>",
        event["type"],
        event["reason"],
        f"{str(about.get('kind')).lower()}/{about.get('name')}",
        event["message"],
    ]


def _endpoints(obj: Object) -> list[Any]:
    found = [
        f"{address['ip']}:{port['port']}"
        for subset in obj.get("subsets") or []
        for address in subset.get("addresses") or []
        for port in subset.get("ports") or []
    ]
    return [",".join(found) or "<none>"]


def _claim(claim: Object) -> list[Any]:
    asked = ((claim["spec"].get("resources") or {}).get("requests") or {}).get("storage", "")
    return [_status(claim, "phase"), claim["spec"].get("volumeName", ""), asked]


def _daemon_set(obj: Object) -> list[Any]:
    counted = ("desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled")
    return [_status(obj, field) for field in (*counted, "numberAvailable")]


def _cron_job(obj: Object) -> list[Any]:
    return [obj["spec"].get("schedule"), str(obj["spec"].get("suspend")), len(_status(obj, "active") or [])]


_COLUMNS: dict[str, tuple[list[str], Cells]] = {
    "Pod": (["Ready", "Status", "Restarts"], _pod),
    "Node": (["Status", "Roles", "Version"], _node),
    "Namespace": (["Status"], lambda obj: [_status(obj, "phase")]),
    "Deployment": (["Ready", "Up-to-date", "Available"], _deployment),
    "ReplicaSet": (
        ["Desired", "Current", "Ready"],
        lambda obj: [obj["spec"]["replicas"], _status(obj, "replicas"), _status(obj, "readyReplicas")],
    ),
    "StatefulSet": (["Ready"], lambda obj: [f"{_status(obj, 'readyReplicas')}/{obj['spec']['replicas']}"]),
    "DaemonSet": (["Desired", "Current", "Ready", "Up-to-date", "Available"], _daemon_set),
    "Job": (["Status", "Completions"], _job),
    "CronJob": (["Schedule", "Suspend", "Active"], _cron_job),
    "Service": (["Type", "Cluster-IP", "External-IP", "Port(s)"], _service),
    "Endpoints": (["Endpoints"], _endpoints),
    "HorizontalPodAutoscaler": (["Reference", "Targets", "MinPods", "MaxPods", "Replicas"], _autoscaler),
    "PodDisruptionBudget": (["Min Available", "Max Unavailable", "Allowed Disruptions"], _budget),
    "Event": (["Last Seen", "Type", "Reason", "Object", "Message"], _event),
    "PersistentVolumeClaim": (["Status", "Volume", "Capacity"], _claim),
    "ConfigMap": (["Data"], lambda obj: [len(obj.get("data") or {})]),
    "Secret": (["Type", "Data"], lambda obj: [obj.get("type"), len(obj.get("data") or {})]),
    "Certificate": (["Ready"], lambda obj: [condition(obj, "Ready").get("status", "")]),
}
