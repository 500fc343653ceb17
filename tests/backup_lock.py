"""
Object Lock as S3 has it, in front of the sandbox's server, which has none: a double.

It keeps what uploads say (``x-amz-object-lock-*``) and legal holds, tells of them in HEAD, and refuses to delete while
one holds. Versions it has not.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from urllib.parse import unquote, urlsplit

from tests.backup_proxy import Proxy, _Handler

UNTIL, HOLD = "x-amz-object-lock-retain-until-date", "x-amz-object-lock-legal-hold"


class LockingStore(Proxy):
    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.RequestHandlerClass = _LockingHandler
        self.until: dict[str, str] = {}
        self.holds: set[str] = set()

    def locked(self, path: str) -> bool:
        until = self.until.get(path)
        return path in self.holds or bool(until and datetime.fromisoformat(until) > datetime.now(UTC))


class _LockingHandler(_Handler):
    server: LockingStore

    def _path(self) -> str:
        return unquote(urlsplit(self.path).path)

    def do_PUT(self) -> None:
        path = self._path()
        if urlsplit(self.path).query == "legal-hold":
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            (self.server.holds.add if re.search(b">ON<", body) else self.server.holds.discard)(path)
            self._answer(200, {}, b"")
            return
        if until := self.headers.get(UNTIL):
            self.server.until[path] = until
        self._pass()

    def do_DELETE(self) -> None:
        if self.server.locked(self._path()):
            error = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            self._answer(403, {}, error)
        else:
            self._pass()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        if self.command == "HEAD" and status == 200:
            path = self._path()
            # The server behind repeats headers of the upload that mean nothing to it.
            headers = {name: value for name, value in headers.items() if "object-lock" not in name.lower()}
            if path in self.server.until:
                headers |= {UNTIL: self.server.until[path], "x-amz-object-lock-mode": "GOVERNANCE"}
            if path in self.server.holds:
                headers |= {HOLD: "ON"}
        super()._answer(status, headers, body)


@contextmanager
def locking(endpoint: str) -> Iterator[LockingStore]:
    store = LockingStore(endpoint)
    threading.Thread(target=store.serve_forever, daemon=True).start()
    try:
        yield store
    finally:
        store.shutdown()
        store.server_close()
