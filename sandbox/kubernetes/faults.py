"""Scripted trouble: the next requests to some path are refused, left hanging or cut."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from sandbox.kubernetes.errors import ApiError, bad_request

Object = dict[str, Any]

_REASONS = {
    400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired",
    429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout",
}  # fmt: skip


class CutOff(Exception):
    """The connection is to be closed without an answer."""


@dataclass
class Fault:
    """One script. It ends by itself after ``times`` requests, or when it is removed."""

    name: str
    path: str = ".*"
    """Regular expression, found anywhere in the path with its query."""

    method: str = ".*"
    answer: int = 0
    """HTTP code of the refusal; 0 with ``hang``, ``close`` or ``cut_after_s``."""

    times: int | None = None
    retry_after_s: int | None = None
    hang: bool = False
    """Accept the request and never answer."""

    close: bool = False
    """Close the connection instead of answering."""

    cut_after_s: float | None = None
    """Answer, but cut a watch or a followed log after so many seconds."""

    delay_s: float = 0.0
    """Answer late."""

    used: int = 0

    def matches(self, method: str, path: str) -> bool:
        spent = self.times is not None and self.used >= self.times
        return not spent and bool(re.search(self.path, path) and re.fullmatch(self.method, method))


@dataclass
class Faults:
    """The scripts that are on, and the log of all requests."""

    active: dict[str, Fault] = field(default_factory=dict)
    requests: deque[Object] = field(default_factory=lambda: deque(maxlen=20_000))

    def __post_init__(self) -> None:
        self._changed = threading.Condition()

    def add(self, body: Object) -> Fault:
        """:raises ApiError: 400, an unknown key."""
        try:
            made = Fault(**{"name": f"fault-{time.monotonic_ns()}", **body})
            re.compile(made.path)
        except (TypeError, re.error) as error:
            raise bad_request(str(error)) from error
        with self._changed:
            self.active[made.name] = made
        return made

    def remove(self, name: str | None) -> None:
        """One script, or all; what hung because of it is cut."""
        with self._changed:
            for each in [name] if name else list(self.active):
                self.active.pop(each, None)
            self._changed.notify_all()

    def apply(self, method: str, path: str) -> float | None:
        """
        Suffer the first script that matches.

        :returns: seconds after which a stream is to be cut; None for never.
        :raises ApiError: the scripted refusal.
        :raises CutOff: close the connection.
        """
        with self._changed:
            found = next((each for each in self.active.values() if each.matches(method, path)), None)
            if found is None:
                return None
            found.used += 1
            if found.hang:
                self._changed.wait_for(lambda: self.active.get(found.name) is not found)
                raise CutOff
        time.sleep(found.delay_s)
        if found.close:
            raise CutOff
        if found.answer:
            reason = _REASONS.get(found.answer, "InternalError")
            raise ApiError(found.answer, reason, f"scripted: {reason}", retry_after_s=found.retry_after_s)
        return found.cut_after_s
