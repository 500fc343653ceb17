"""The HTTPS server around the cluster: threads, TLS, chunked streams."""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import time
import traceback
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sandbox.kubernetes import admin, api, clock
from sandbox.kubernetes.cluster import Cluster
from sandbox.kubernetes.errors import ApiError
from sandbox.kubernetes.faults import CutOff
from sandbox.kubernetes.messages import Request, Response

_HANDSHAKE_S = 10.0


class Server(ThreadingHTTPServer):
    """One thread per connection; the handshake is its thread's business, so that nobody can block the others."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, certificate: Path, cluster: Cluster) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.cluster = cluster
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wrapped = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return wrapped, address

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(_HANDSHAKE_S)
        try:
            request.do_handshake()
        except (OSError, ssl.SSLError):
            # A port probe, or a client that does not trust us; its own log tells.
            return
        request.settimeout(None)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients come and go; everything else is a mistake of ours and belongs in the log."""
        if not isinstance(sys.exc_info()[1], OSError):
            traceback.print_exc()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        """The request log is kept by the cluster."""

    def _serve(self) -> None:
        try:
            self._answer()
        except CutOff:
            self._close()
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        path = urllib.parse.unquote(url.path)
        request = Request(self.command, path, query, self.headers, self.rfile.read(length) if length else b"")
        entry = {"time": clock.now_micro(), "method": self.command, "path": self.path, "status": 0, "user": ""}
        if not path.startswith("/_sandbox/"):
            self.server.cluster.faults.requests.append(entry)
        cut_after_s = None
        try:
            user = self.server.cluster.access.user(self.headers.get("Authorization"))
            entry["user"] = user.name
            if path.startswith("/_sandbox/"):
                response = admin.answer(self.server.cluster, request)
            else:
                cut_after_s = self.server.cluster.faults.apply(self.command, self.path)
                response = api.answer(self.server.cluster, request, user)
        except ApiError as error:
            headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
            response = Response(error.status(), error.code, headers=headers)
        except CutOff:
            raise
        except Exception as error:
            # A body of a shape that nobody expected: a real server answers 500 too, and its log tells.
            traceback.print_exc()
            refused = ApiError(500, "InternalError", f"{type(error).__name__}: {error}")
            response = Response(refused.status(), 500)
        entry["status"] = response.code
        self._send(response, cut_after_s)

    def _send(self, response: Response, cut_after_s: float | None) -> None:
        self.send_response(response.code)
        self.send_header("Content-Type", response.media_type)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if response.stream is None:
            body = response.encoded()
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._send_stream(response.stream, cut_after_s)

    def _send_stream(self, stream: Iterator[bytes], cut_after_s: float | None) -> None:
        ends = None if cut_after_s is None else _monotonic() + cut_after_s
        for piece in stream:
            if piece:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()
            elif self._left():
                self.close_connection = True
                return
            if ends is not None and _monotonic() >= ends:
                raise CutOff
        self.wfile.write(b"0\r\n\r\n")

    def _left(self) -> bool:
        """Whether the client has closed its side."""
        connection = self.connection
        connection.settimeout(0)
        try:
            return connection.recv(1) == b""
        except (ssl.SSLWantReadError, BlockingIOError):
            return False
        except OSError:
            return True
        finally:
            with contextlib.suppress(OSError):
                connection.settimeout(None)

    def _close(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


def _monotonic() -> float:
    return time.monotonic()
