"""What a person would look at first, gathered before anything is done: a restart takes most of it away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kubernetes.client import ApiClient, CoreV1Api
from kubernetes.client.exceptions import ApiException

from upkeep.alerts.redact import redact
from upkeep.incident.workloads import Object, Workload, WorkloadError, ask, look

MOST_PODS = 10
"""The worst first."""

MOST_EVENTS = 30
LOG_LINES = 100
LOG_BYTES = 20_000


def gather(client: ApiClient, namespace: str, name: str) -> dict[str, Any]:
    """
    How a Deployment stands, its Pods with the reasons of their last ends, its events, and the tails of its logs.

    What could not be asked is named under ``missing``, so that nobody takes silence for health. Redacted; bounded to
    some hundred kilobytes.

    :raises WorkloadError: not even the Deployment can be read.
    """
    found = look(client, namespace, name)
    missing: list[str] = []
    pods = _asked(missing, "pods", lambda: _pods(client, found))
    shown = sorted(pods, key=lambda pod: (pod["ready"], -pod["restarts"], pod["name"]))[:MOST_PODS]
    names = {pod["name"] for pod in pods} | {name}
    return {
        "deployment": {**found.standing(), "stuck": found.stuck, "paused": found.paused, "owner": found.owner},
        "pods": shown,
        "pods_in_all": len(pods),
        "events": _asked(missing, "events", lambda: _events(client, namespace, name, names)),
        "logs": {
            f"{pod['name']}/{container['name']}": tails
            for pod in shown
            for container in pod["containers"]
            if (tails := _tails(client, namespace, pod["name"], container, missing))
        },
        "missing": missing,
    }


def summary(found: Mapping[str, Any]) -> Iterator[str]:
    """The few lines that a person reads first."""
    for name, seen in found["deployments"].items():
        stands = seen["deployment"]
        yield f"{name}: {stands['available']} of {stands['wanted']} available, revision {stands['revision']}"
        for pod in seen["pods"]:
            if not pod["ready"] or pod["restarts"]:
                why = "; ".join(
                    f"{one['why'] or one['now']}, last ended {one['last_end'].get('reason', '?')}"
                    for one in pod["containers"]
                    if not one["ready"] or one["restarts"]
                )
                yield f"  {pod['name']}: {pod['phase']}, {pod['restarts']} restarts: {why}"
        for event in seen["events"][:5]:
            yield f"  {event['at']} {event['type']} {event['reason']} {event['object']}: {event['message']}"
        for missing in seen["missing"]:
            yield f"  could not look: {missing}"
    for check, outcome in found.get("database", {}).items():
        for line in outcome["findings"]:
            yield f"{check}: {line}"
    for missing in found["missing"]:
        yield f"could not look: {missing}"


def _asked(missing: list[str], what: str, question: Any) -> list[Any]:
    try:
        return list(question())
    except WorkloadError as refused:
        missing.append(f"{what}: {refused.message}")
        return []


def _pods(client: ApiClient, found: Workload) -> list[dict[str, Any]]:
    labels = found.raw["spec"]["selector"].get("matchLabels") or {}
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    listed = ask(CoreV1Api(client).list_namespaced_pod, found.namespace, label_selector=selector)["items"]
    return [_pod(one) for one in listed]


def _pod(raw: Object) -> dict[str, Any]:
    status = raw.get("status") or {}
    containers = [_container(one) for one in status.get("containerStatuses") or []]
    return {
        "name": raw["metadata"]["name"],
        "node": raw["spec"].get("nodeName") or "",
        "phase": status.get("phase") or "",
        "reason": redact(str(status.get("message") or status.get("reason") or "")),
        "leaving": "deletionTimestamp" in raw["metadata"],
        "since": status.get("startTime") or raw["metadata"].get("creationTimestamp"),
        "ready": bool(containers) and all(one["ready"] for one in containers),
        "restarts": sum(one["restarts"] for one in containers),
        "containers": containers,
    }


def _container(status: Object) -> dict[str, Any]:
    state, last = status.get("state") or {}, (status.get("lastState") or {}).get("terminated") or {}
    waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
    return {
        "name": status["name"],
        "image": status.get("image") or "",
        "image_id": status.get("imageID") or "",
        "ready": bool(status.get("ready")),
        "restarts": int(status.get("restartCount") or 0),
        "now": next(iter(state), ""),
        "why": redact(
            ": ".join(filter(None, [waiting.get("reason") or ended.get("reason"), waiting.get("message")]))[:500]
        ),
        "last_end": {
            key: redact(str(last[key]))[:500] for key in ("reason", "exitCode", "finishedAt", "message") if key in last
        },
    }


def _events(client: ApiClient, namespace: str, deployment: str, names: set[str]) -> list[dict[str, Any]]:
    """The latest of these objects and of their ReplicaSets, newest first."""
    events = ask(CoreV1Api(client).list_namespaced_event, namespace, limit=1000)["items"]
    mine = [
        {
            "at": _at(one),
            "type": one.get("type") or "",
            "reason": one.get("reason") or "",
            "object": f"{one['involvedObject'].get('kind')}/{one['involvedObject'].get('name')}",
            "count": int(one.get("count") or (one.get("series") or {}).get("count") or 1),
            "message": redact(str(one.get("message") or ""))[:500],
        }
        for one in events
        if (of := str(one["involvedObject"].get("name") or "")) in names or of.startswith(f"{deployment}-")
    ]
    return sorted(mine, key=lambda one: str(one["at"]), reverse=True)[:MOST_EVENTS]


def _at(event: Object) -> str:
    times: Sequence[Any] = (
        (event.get("series") or {}).get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"),
        event["metadata"].get("creationTimestamp"),
    )  # fmt: skip
    return str(next((one for one in times if one), ""))


def _tails(client: ApiClient, namespace: str, pod: str, container: Object, missing: list[str]) -> dict[str, str]:
    """The end of the log of this run and, where it was started again, of the one before."""
    tails = {}
    for which, previous in (("now", False), ("before", True)):
        if previous and not container["restarts"]:
            continue
        if not previous and container["now"] == "waiting":
            continue
        try:
            answer = CoreV1Api(client).read_namespaced_pod_log(
                pod, namespace, container=container["name"], previous=previous, tail_lines=LOG_LINES,
                limit_bytes=10 * LOG_BYTES, _preload_content=False, _request_timeout=5,
            )  # fmt: skip
            text = bytes(answer.data).decode(errors="replace")
        except Exception as trouble:
            status = f"{trouble.status} {trouble.reason}" if isinstance(trouble, ApiException) else str(trouble)
            missing.append(f"log of {pod}/{container['name']} ({which}): {status[:200]}")
            continue
        if text:
            tails[which] = redact(text)[-LOG_BYTES:]
    return tails
