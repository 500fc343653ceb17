"""One HTTP request with one deadline for everything: name, connection, handshake, headers and the last byte."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpcore

MOST_BYTES = 1024 * 1024
"""Of a body; the rest is not read."""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: bytes
    location: str = ""
    cut: bool = False
    """There was more body than ``MOST_BYTES``."""


def trusted() -> ssl.SSLContext:
    """Verifies names and chains against the system's authorities, or those of ``SSL_CERT_FILE``."""
    return ssl.create_default_context()


class Wire(httpcore.NetworkBackend):
    """
    Network for one request that must be over within ``timeout_s`` seconds.

    The usual time-outs are per read: a server that sends a byte now and then is never late. Here every operation
    gets what is left of the whole. TCP may go elsewhere (``connect_to``); SNI, ``Host`` and the certificate's name
    stay those of the URL.
    """

    def __init__(self, connect_to: Mapping[str, str], timeout_s: float, trust: ssl.SSLContext) -> None:
        self.trust = trust
        self.connect_to = connect_to
        self.timeout_s = timeout_s
        self.deadline = time.monotonic() + timeout_s
        self.real = httpcore.SyncBackend()

    def get(self, url: str) -> Answer:
        """
        One GET; redirects are not followed, and nothing in the environment (proxies) is heeded.

        :raises httpcore.TimeoutException: it was not over in time.
        :raises httpcore.NetworkError: no connection, or it broke.
        :raises httpcore.ProtocolError: what came is not HTTP, or less than was announced.
        """
        headers: list[tuple[bytes | str, bytes | str]] = [
            ("User-Agent", "upkeep"),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
            ("Cache-Control", "no-cache"),
        ]
        with (
            httpcore.ConnectionPool(ssl_context=self.trust, network_backend=self) as pool,
            pool.stream("GET", url, headers=headers) as response,
        ):
            body = b""
            for chunk in response.iter_stream():
                body += chunk
                if len(body) > MOST_BYTES:
                    break
            found = {key.lower(): value for key, value in response.headers}
            return Answer(
                status=response.status,
                body=body[:MOST_BYTES],
                location=found.get(b"location", b"").decode("latin-1"),
                cut=len(body) > MOST_BYTES,
            )

    def left_s(self) -> float:
        """:raises httpcore.TimeoutException: nothing."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise httpcore.TimeoutException(f"not over within {self.timeout_s:g} s")
        return left

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        host, port = actual_address(f"{host}:{port}", self.connect_to)
        return _Stream(self.real.connect_tcp(host, port, self.left_s(), local_address, socket_options), self)


class _Stream(httpcore.NetworkStream):
    """A connection whose every operation is bounded by what is left of the wire's time."""

    def __init__(self, real: httpcore.NetworkStream, wire: Wire) -> None:
        self.real = real
        self.wire = wire

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.real.read(max_bytes, self.wire.left_s())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.real.write(buffer, self.wire.left_s())

    def close(self) -> None:
        self.real.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self.real.start_tls(ssl_context, server_hostname, self.wire.left_s()), self.wire)

    def get_extra_info(self, info: str) -> Any:
        return self.real.get_extra_info(info)


def actual_address(address: str, connect_to: Mapping[str, str]) -> tuple[str, int]:
    """Where a connection to ``host:port`` really goes."""
    host, _, port = connect_to.get(address, address).rpartition(":")
    return host.strip("[]"), int(port)


def open_socket(address: str, connect_to: Mapping[str, str], timeout_s: float) -> socket.socket:
    """A TCP connection to where ``address`` really is. :raises OSError: there is none within ``timeout_s``."""
    return socket.create_connection(actual_address(address, connect_to), timeout=timeout_s)
