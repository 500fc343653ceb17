"""
Cloudflare's purge of its cache, ``POST /client/v4/zones/<zone>/purge_cache``: a double that remembers what was purged.

Shapes and codes of errors: https://developers.cloudflare.com/api/resources/cache/methods/purge/
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sandbox.inboxes.wire import Answer, Request

PREFIX = "/client/v4/"
MOST = 30
KINDS = ("files", "tags", "hosts", "prefixes", "purge_everything")


class Cloudflare:
    """One zone behind one token."""

    def __init__(self, *, zone: str, token: str) -> None:
        self.zone, self.token = zone, token
        self.purged: list[dict[str, Any]] = []
        """Bodies that were taken, in their order."""

    def refusal(self, request: Request) -> Answer | None:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return _refused(403, 10000, "Authentication error")
        if request.path != f"{PREFIX}zones/{self.zone}/purge_cache":
            return _refused(404, 7003, f"Could not route to {request.path}, perhaps your object identifier is invalid?")
        if request.method != "POST":
            return _refused(405, 10405, "Method not allowed for this authentication scheme")
        body = request.body if isinstance(request.body, dict) else {}
        if len(body) != 1 or next(iter(body)) not in KINDS:
            return _refused(400, 1012, f"Request must contain one of {', '.join(KINDS)}")
        if isinstance(what := next(iter(body.values())), list) and not 1 <= len(what) <= MOST:
            return _refused(400, 1094, f"Unable to purge: at most {MOST} at a time")
        return None

    def answer(self, request: Request, now: datetime) -> Answer:
        self.purged.append(request.body)
        return Answer(200, {"success": True, "errors": [], "messages": [], "result": {"id": self.zone}})


def _refused(status: int, code: int, message: str) -> Answer:
    return Answer(
        status, {"success": False, "errors": [{"code": code, "message": message}], "messages": [], "result": None}
    )
