"""
Somebody who expects a sign of life, as healthchecks.io does: a double. ``GET`` or ``POST /ping/<name>`` is one.

It notices when none came for longer than the name's period: what is behind it is dead, or cannot speak.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sandbox.inboxes.wire import Answer, Request

PREFIX = "/ping/"


class Heartbeats:
    """When each name was last heard of."""

    def __init__(self) -> None:
        self.heard: dict[str, list[datetime]] = {}

    def refusal(self, request: Request) -> Answer | None:
        return None

    def answer(self, request: Request, now: datetime) -> Answer:
        self.heard.setdefault(request.path.removeprefix(PREFIX), []).append(now)
        return Answer(200, "OK")

    def json(self, now: datetime) -> dict[str, Any]:
        """``{"upkeep": {"count": 3, "last": "…", "silent_s": 12.0}}``."""
        return {
            name: {
                "count": len(times),
                "last": times[-1].isoformat(timespec="microseconds").replace("+00:00", "Z"),
                "silent_s": (now - times[-1]).total_seconds(),
            }
            for name, times in self.heard.items()
        }
