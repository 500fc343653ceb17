"""Misbehaviour on request: the next requests to a path fail in a way that was asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatch
from typing import Any

from sandbox.inboxes.wire import Answer

SERVICES = ("pagerduty", "slack", "heartbeat", "cloudflare")


@dataclass
class Script:
    """
    One kind of misbehaviour. Without ``accept`` a request is only recorded; with it, it takes effect as well.

    ``{"path": "/v2/enqueue", "status": 500, "times": 3}``, ``{"path": "/api/*", "accept": true, "hang_s": 30}``
    """

    path: str
    """Which requests: a shell pattern on the path."""

    service: str | None = None
    """One of ``SERVICES``; None is all of them."""

    name: str = ""
    """A second script of the same name replaces the first."""

    times: int | None = None
    """How many requests; None is until it is removed."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] | str | None = None
    """None: what the service says with this status."""

    error: str | None = None
    """Slack's way to refuse: status 200 with ``{"ok": false, "error": ...}``."""

    hang_s: float = 0.0
    """So long without an answer; then it goes on with what else is asked for, else the connection is dropped."""

    close: bool = False
    """The connection is dropped without an answer."""

    accept: bool = False
    """The request takes effect as if all were well, whatever the sender is told: the double-post trap."""

    every_s: float | None = None
    """At most one request per channel (Slack) or routing key (PagerDuty) in so many seconds; more are 429."""

    used: int = 0

    @classmethod
    def parse(cls, asked: Any) -> Script:
        """:raises ValueError: not a script; says why."""
        known = {known.name for known in fields(cls)} - {"used"}
        if not isinstance(asked, dict) or not isinstance(asked.get("path"), str):
            raise ValueError('a script is an object with a "path"')
        if unknown := set(asked) - known:
            raise ValueError(f"no {', '.join(sorted(unknown))} in a script; there are {', '.join(sorted(known))}")
        script = cls(**asked)
        if not (script.status or script.error or script.hang_s or script.close or script.every_s):
            raise ValueError("a script needs one of status, error, hang_s, close, every_s")
        if script.service not in (None, *SERVICES):
            raise ValueError(f"service is one of {', '.join(SERVICES)}")
        if script.times is not None and script.times < 1:
            raise ValueError("times is at least 1")
        script.name = script.name or f"{script.path} {script.status or script.error or ''}".strip()
        return script

    @property
    def exhausted(self) -> bool:
        return self.times is not None and self.used >= self.times

    def json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value or key == "used"}

    def answer(self, service: str) -> Answer | None:
        """What the sender is told; None when nothing was scripted for that."""
        if self.error:
            return Answer(200, {"ok": False, "error": self.error}, self.headers)
        if self.status is None:
            return None
        if self.body is not None:
            return Answer(self.status, self.body, self.headers)
        return failure(service, self.status, self.headers)


class Scripts:
    """All scripts that are on, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._by_name: dict[str, Script] = {}
        self._last: dict[tuple[str, str], float] = {}

    def __iter__(self) -> Any:
        return iter([script for script in self._by_name.values() if not script.exhausted])

    def add(self, script: Script) -> None:
        self._by_name.pop(script.name, None)
        self._by_name[script.name] = script

    def remove(self, name: str | None) -> None:
        """None: all of them."""
        if name is None:
            self._by_name.clear()
            self._last.clear()
        else:
            self._by_name.pop(name, None)

    def use(self, name: str) -> None:
        if name in self._by_name:
            self._by_name[name].used += 1

    def take(self, service: str, path: str, key: str, now: float) -> Script | None:
        """
        The script for this request, counted as used; None when it is to be treated well.

        :param key: whose rate is limited: the Slack channel or the routing key.
        :param now: seconds since the epoch.
        """
        for script in self:
            if script.service not in (None, service) or not fnmatch(path, script.path):
                continue
            if script.every_s is None:
                script.used += 1
                return script
            wait = script.every_s - (now - self._last.get((script.name, key), -math.inf))
            if wait > 0:
                script.used += 1
                limited = {"Retry-After": str(math.ceil(wait))}
                return Script(path=path, name=script.name, status=429, headers=limited)
            self._last[script.name, key] = now
        return None


def failure(service: str, status: int, headers: Mapping[str, str]) -> Answer:
    """How each service words a refusal that has nothing to do with what was sent."""
    if service == "slack":
        body: dict[str, Any] | str = {429: {"ok": False, "error": "ratelimited"}}.get(status, "upstream error")
    elif status == 429:
        body = {
            "status": "throttle exceeded",
            "message": "Requests for this service are arriving too quickly.  Please retry later.",
        }
    else:
        body = {"status": "error", "message": "The server could not handle the request."}
    return Answer(status, body, headers)
