"""
How many bytes each broker holds of each partition, and which of its log directories failed.

Kafka answers that to ``DescribeLogDirs``, which librdkafka and so the official Python client do not offer; this is
that one request, with the log-in it needs (TLS, SASL PLAIN and SCRAM), and nothing more.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import socket
import ssl
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from upkeep.errors import CredentialsError, UpkeepError

_SASL_HANDSHAKE, _DESCRIBE_LOG_DIRS, _SASL_AUTHENTICATE = 17, 35, 36
_MOST_BYTES = 64 * 1024 * 1024
_HINT = "compare the connection with the brokers' listeners; the role needs Describe on the cluster."


class LogDirsUnreadable(UpkeepError):
    """A broker did not tell; the message says why."""


@dataclass(frozen=True)
class LogDir:
    """One directory of one broker."""

    path: str
    error: int
    """Kafka's error code; 0 is well, 56 is a disk that failed."""

    bytes: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """By topic and partition."""


def describe_log_dirs(host: str, port: int, config: Mapping[str, Any], deadline: float) -> list[LogDir]:
    """
    The log directories of the broker at ``host:port``; ``config`` is librdkafka configuration.

    :raises LogDirsUnreadable: no answer until ``deadline`` (monotonic clock), no right to ask, or a way to log in
        (Kerberos, OAuth) that is not spoken here.
    :raises CredentialsError: user or password are wrong.
    """
    try:
        with _connect(host, port, config, deadline) as broker:
            _log_in(broker, config, deadline)
            answer = _ask(broker, _DESCRIBE_LOG_DIRS, 1, struct.pack(">i", -1), deadline)
            return _log_dirs(answer)
    except (OSError, struct.error, ValueError) as failed:
        said = "no answer in time" if isinstance(failed, TimeoutError) else str(failed)
        raise LogDirsUnreadable(f"log directories of {host}:{port}: {said}", hint=_HINT) from failed


def _log_dirs(answer: _Reader) -> list[LogDir]:
    answer.int32()
    found = []
    for _ in range(answer.int32()):
        error, path = answer.int16(), answer.string()
        sizes = {}
        for _ in range(answer.int32()):
            topic = answer.string()
            for _ in range(answer.int32()):
                index, size, _, is_future = answer.int32(), answer.int64(), answer.int64(), answer.take(1)
                # A future replica is a copy under way to another directory: counted once, where it lives.
                if is_future == b"\0":
                    sizes[topic, index] = size
        found.append(LogDir(path, error, sizes))
    if not found:
        raise OSError("it lists none, as it does to those who may not Describe the cluster")
    return found


# -- the connection ------------------------------------------------------------------------------------------


def _connect(host: str, port: int, config: Mapping[str, Any], deadline: float) -> socket.socket:
    plain = socket.create_connection((host, port), _left(deadline))
    if "SSL" not in _protocol(config):
        return plain
    try:
        return _tls(config).wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def _protocol(config: Mapping[str, Any]) -> str:
    return str(config.get("security.protocol", "plaintext")).upper()


def _tls(config: Mapping[str, Any]) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=config.get("ssl.ca.location"), cadata=config.get("ssl.ca.pem"))
    if str(config.get("ssl.endpoint.identification.algorithm", "https")) == "none":
        made.check_hostname = False
    if str(config.get("enable.ssl.certificate.verification", "true")).lower() == "false":
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if certificate := config.get("ssl.certificate.location"):
        made.load_cert_chain(certificate, config.get("ssl.key.location"), config.get("ssl.key.password"))
    return made


def _log_in(broker: socket.socket, config: Mapping[str, Any], deadline: float) -> None:
    if "SASL" not in _protocol(config):
        return
    mechanism = str(config.get("sasl.mechanism", config.get("sasl.mechanisms", ""))).upper()
    user = str(config.get("sasl.username", config.get("sasl.user", "")))
    password = str(config.get("sasl.password", ""))
    digest = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}.get(mechanism)
    if mechanism != "PLAIN" and digest is None:
        raise OSError(f"SASL {mechanism or 'without a mechanism'} is not spoken here")
    answer = _ask(broker, _SASL_HANDSHAKE, 1, _string(mechanism), deadline)
    if answer.int16():
        raise CredentialsError(
            f"Kafka does not take SASL {mechanism}", hint="compare sasl.mechanism with the brokers'."
        )
    if digest is None:
        _authenticate(broker, f"\0{user}\0{password}".encode(), deadline)
        return
    scram = Scram(digest, user, password, base64.b64encode(os.urandom(18)).decode())
    _authenticate(broker, scram.final(_authenticate(broker, scram.first(), deadline)), deadline)


def _authenticate(broker: socket.socket, token: bytes, deadline: float) -> bytes:
    answer = _ask(broker, _SASL_AUTHENTICATE, 0, struct.pack(">i", len(token)) + token, deadline)
    error, message = answer.int16(), answer.string()
    if error:
        raise CredentialsError(
            f"Kafka refuses the credentials: {message or f'error {error}'}",
            hint="compare sasl.username and sasl.password of the connection with the brokers'.",
        )
    return answer.take(answer.int32())


class Scram:
    """The client's half of RFC 5802. The server's proof is not asked for: nothing is sent that it could misuse."""

    def __init__(self, digest: str, user: str, password: str, nonce: str) -> None:
        self.digest, self.password, self.nonce = digest, password, nonce
        self.opening = f"n={user.replace('=', '=3D').replace(',', '=2C')},r={nonce}"

    def first(self) -> bytes:
        return f"n,,{self.opening}".encode()

    def final(self, challenge: bytes) -> bytes:
        """:raises OSError: the challenge is not one."""
        parts = dict(part.split("=", 1) for part in challenge.decode().split(",") if "=" in part)
        if not {"r", "s", "i"} <= parts.keys() or not parts["r"].startswith(self.nonce):
            raise OSError("the broker's SCRAM challenge makes no sense")
        salted = hashlib.pbkdf2_hmac(self.digest, self.password.encode(), base64.b64decode(parts["s"]), int(parts["i"]))
        key = hmac.digest(salted, b"Client Key", self.digest)
        proven = f"c=biws,r={parts['r']}"
        said = f"{self.opening},{challenge.decode()},{proven}".encode()
        signature = hmac.digest(hashlib.new(self.digest, key).digest(), said, self.digest)
        proof = bytes(left ^ right for left, right in zip(key, signature, strict=True))
        return f"{proven},p={base64.b64encode(proof).decode()}".encode()


# -- the wire ------------------------------------------------------------------------------------------------


def _left(deadline: float) -> float:
    return max(0.05, deadline - time.monotonic())


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text.encode())) + text.encode()


def _ask(broker: socket.socket, api: int, version: int, body: bytes, deadline: float) -> _Reader:
    request = struct.pack(">hhi", api, version, 1) + _string("upkeep") + body
    broker.settimeout(_left(deadline))
    broker.sendall(struct.pack(">i", len(request)) + request)
    (size,) = struct.unpack(">i", _exactly(broker, 4, deadline))
    if not 4 <= size <= _MOST_BYTES:
        raise OSError(f"an answer of {size} bytes: this is not Kafka")
    answer = _Reader(_exactly(broker, size, deadline))
    answer.int32()
    return answer


def _exactly(broker: socket.socket, count: int, deadline: float) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        if time.monotonic() > deadline:
            raise TimeoutError
        broker.settimeout(_left(deadline))
        part = broker.recv(min(65536, count - len(parts)))
        if not part:
            raise OSError("the broker hung up")
        parts += part
    return bytes(parts)


class _Reader:
    """Big-endian values, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.data):
            raise OSError("an answer that ends too soon: this is not Kafka")
        self.at += count
        return self.data[self.at - count : self.at]

    def int16(self) -> int:
        return int.from_bytes(self.take(2), signed=True)

    def int32(self) -> int:
        return int.from_bytes(self.take(4), signed=True)

    def int64(self) -> int:
        return int.from_bytes(self.take(8), signed=True)

    def string(self) -> str:
        size = self.int16()
        return "" if size < 0 else self.take(size).decode()
