"""What goes in and what comes out: one request, one answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl


@dataclass(frozen=True)
class Request:
    """A request as it arrived; header names are lower case."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    """A parameter given several times is joined by commas."""

    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    """Decoded JSON, a form as a dictionary, or text that is neither; None when empty."""

    size: int = 0
    """Of the body, bytes."""


@dataclass(frozen=True)
class Answer:
    """A dictionary is sent as JSON, text as text."""

    status: int
    body: dict[str, Any] | str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Accepted, as its service means it: Slack refuses with 200 and ``"ok": false``."""
        return self.status < 300 and not (isinstance(self.body, dict) and self.body.get("ok") is False)


def decode(raw: bytes, content_type: str) -> Any:
    """The body as its content type says; text when it is not that after all."""
    text = raw.decode(errors="replace")
    if not raw:
        return None
    if content_type.startswith("application/x-www-form-urlencoded"):
        return dict(parse_qsl(text, keep_blank_values=True))
    try:
        return json.loads(text)
    except ValueError:
        return text
