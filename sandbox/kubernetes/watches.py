"""Watches: the stream of changes after a version, as a client with a selector sees them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sandbox.kubernetes.errors import ApiError
from sandbox.kubernetes.resources import Resource
from sandbox.kubernetes.store import Change, Store

Object = dict[str, Any]

_LONGEST_S = 1800.0


@dataclass(frozen=True)
class Watch:
    """One client's wish."""

    store: Store
    resource: Resource
    matches: Callable[[Object], bool]
    """Namespace and selectors together."""

    present: Callable[[Object], Object]
    """How an object is shown: as it is, or as a row of a table."""

    version: str = ""
    """Where to begin; empty or ``0``: with everything there is."""

    timeout_s: float = _LONGEST_S
    bookmarks: bool = False
    bookmark_s: float = 60.0
    initial_events: bool = False
    """``sendInitialEvents``: say by a bookmark when everything that was there has been sent."""

    def stream(self) -> Iterator[bytes]:
        """One JSON line per event; ends at the time-out, or with an ``ERROR`` when the version is too old."""
        ends = time.monotonic() + self.timeout_s
        bookmark_at = time.monotonic() + self.bookmark_s
        with self.store.lock:
            there = [obj for obj in self.store.all(self.resource) if self.matches(obj)]
            seen = self.store.version
        if self.version in ("", "0") or self.initial_events:
            for obj in there:
                yield _line("ADDED", self.present(obj))
            if self.initial_events:
                yield self._bookmark(seen, {"k8s.io/initial-events-end": "true"})
        else:
            seen = int(self.version)
        while True:
            try:
                changes = self.store.since(seen)
            except ApiError as too_old:
                yield _line("ERROR", too_old.status())
                return
            for change in changes:
                seen = change.version
                event = self._event(change)
                if event:
                    yield event
            left = ends - time.monotonic()
            if left <= 0:
                break
            if self.bookmarks and time.monotonic() >= bookmark_at:
                bookmark_at = time.monotonic() + self.bookmark_s
                yield self._bookmark(seen)
            else:
                # An empty piece lets the sender notice that the client has gone.
                yield b""
            self.store.wait(seen, min(left, 0.5))
        if self.bookmarks:
            yield self._bookmark(seen)

    def _event(self, change: Change) -> bytes | None:
        if change.resource is not self.resource:
            return None
        before = change.before is not None and self.matches(change.before)
        now = self.matches(change.object)
        if change.type == "DELETED":
            return _line("DELETED", self.present(change.object)) if before or now else None
        if now:
            return _line("MODIFIED" if before else "ADDED", self.present(change.object))
        # It left the selection; to this client it is gone.
        return _line("DELETED", self.present(change.object)) if before else None

    def _bookmark(self, version: int, annotations: dict[str, str] | None = None) -> bytes:
        metadata: Object = {"resourceVersion": str(version), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations
        kinds = {"kind": self.resource.kind, "apiVersion": self.resource.api_version}
        return _line("BOOKMARK", {**kinds, "metadata": metadata})


def _line(kind: str, obj: Object) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"
