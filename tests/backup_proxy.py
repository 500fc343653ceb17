"""Between a client and the S3 server: passes requests on, and does to some of them what networks and stores do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

ERRORS = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "403": (403, "AccessDenied"),
}


class Proxy(ThreadingHTTPServer):
    """``wrong`` is done to the next ``count`` requests whose method and query match ``when``."""

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = urlsplit(endpoint).netloc
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.wrong, self.when, self.count, self.done = "", "", 0, 0
        self.guard = threading.Lock()

    def next(self, what: str) -> str:
        with self.guard:
            if self.count > 0 and self.when in what:
                self.count -= 1
                self.done += 1
                return self.wrong
        return ""

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _pass(self) -> None:
        wrong = self.server.next(f"{self.command} {self.path}")
        length = int(self.headers.get("Content-Length") or 0)
        if wrong == "reset":
            self.rfile.read(length // 2)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            self.connection.close()
            return
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self.rfile.read(length)
        if wrong == "silence":
            threading.Event().wait(3)
            self.close_connection = True
            return
        if wrong in ERRORS:
            status, code = ERRORS[wrong]
            self._answer(status, {}, f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode())
            return
        upstream = HTTPConnection(self.server.endpoint, timeout=30)
        # The signature covers the host that the client named.
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        upstream.request(self.command, self.path, body, headers)
        answer = upstream.getresponse()
        self._answer(answer.status, dict(answer.getheaders()), answer.read())
        upstream.close()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        length = headers.get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def proxied(endpoint: str) -> Iterator[Proxy]:
    proxy = Proxy(endpoint)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
