"""Events: what controllers tell about objects; repeated ones are counted, old ones forgotten."""

from __future__ import annotations

from typing import Any

from sandbox.kubernetes import clock
from sandbox.kubernetes.resources import EVENTS
from sandbox.kubernetes.store import Store, suffix

Object = dict[str, Any]

_KEPT = 500
"""Per namespace; a real API server keeps them for an hour."""


def record(store: Store, obj: Object, kind: str, reason: str, message: str, *, component: str) -> None:
    """:param kind: ``Normal`` or ``Warning``."""
    metadata = obj["metadata"]
    namespace = metadata.get("namespace", "default")
    earlier = store.all(EVENTS, namespace)
    for event in earlier:
        if (event["involvedObject"].get("uid"), event["reason"], event["message"]) == (
            metadata["uid"],
            reason,
            message,
        ):
            again = {"count": event["count"] + 1, "lastTimestamp": clock.now()}
            store.edit(EVENTS, event, lambda new, again=again: new.update(again))
            return
    if len(earlier) >= _KEPT:
        store.remove(EVENTS, min(earlier, key=lambda event: str(event["lastTimestamp"])))
    store.create(
        EVENTS,
        namespace,
        {
            "metadata": {"name": f"{metadata['name']}.{suffix(16)}"},
            "involvedObject": {
                "apiVersion": obj["apiVersion"],
                "kind": obj["kind"],
                "name": metadata["name"],
                "namespace": metadata.get("namespace"),
                "uid": metadata["uid"],
                "resourceVersion": metadata.get("resourceVersion"),
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "count": 1,
            "firstTimestamp": clock.now(),
            "lastTimestamp": clock.now(),
            "source": {"component": component},
            "reportingComponent": component,
            "reportingInstance": "",
            "eventTime": None,
        },
    )
