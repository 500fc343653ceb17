"""Conditions of objects, and what one asks pods most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sandbox.kubernetes import clock

Object = dict[str, Any]


def condition(obj: Object, kind: str) -> Object:
    """The condition of that type; an empty one when it is not there."""
    listed = (obj.get("status") or {}).get("conditions") or []
    return next((found for found in listed if found["type"] == kind), {})


def made(
    old: Sequence[Object], kind: str, status: bool | str, reason: str = "", message: str = "", *, updated: bool = False
) -> Object:
    """
    A condition whose ``lastTransitionTime`` stays while its status does.

    :param updated: carry ``lastUpdateTime`` too, as Deployments do; it moves with the reason and message.
    """
    text = status if isinstance(status, str) else str(status)
    before = next((found for found in old if found["type"] == kind), {})
    same = before.get("status") == text
    new = {"type": kind, "status": text, "lastTransitionTime": before["lastTransitionTime"] if same else clock.now()}
    if updated:
        still = same and before.get("reason") == reason and before.get("message") == message
        new["lastUpdateTime"] = before["lastUpdateTime"] if still else clock.now()
    if reason:
        new["reason"] = reason
    if message:
        new["message"] = message
    return new


def is_ready(pod: Object) -> bool:
    return condition(pod, "Ready").get("status") == "True"


def is_available(pod: Object, least_ready_s: int = 0) -> bool:
    """Ready, and for at least ``least_ready_s`` seconds."""
    ready = condition(pod, "Ready")
    return ready.get("status") == "True" and (
        not least_ready_s or clock.seconds_since(ready["lastTransitionTime"]) >= least_ready_s
    )


def is_terminating(obj: Object) -> bool:
    return "deletionTimestamp" in obj["metadata"]


def is_finished(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def is_active(pod: Object) -> bool:
    return not is_terminating(pod) and not is_finished(pod)


def node_ready(node: Object | None) -> bool:
    return node is not None and condition(node, "Ready").get("status") == "True"
