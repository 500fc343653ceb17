"""``python -m sandbox.kafka DIRECTORY PORT [PORT ...] [--user NAME:PASSWORD] [--certificate PEM]``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import ssl
import struct
from pathlib import Path
from typing import Any

from sandbox.kafka.apis import API_VERSIONS, APIS, CONTROL, SASL_AUTHENTICATE, SASL_HANDSHAKE, Api
from sandbox.kafka.broker import Broker
from sandbox.kafka.cluster import (
    ILLEGAL_SASL_STATE,
    NONE,
    SASL_FAILED,
    UNSUPPORTED_SASL_MECHANISM,
    UNSUPPORTED_VERSION,
    Cluster,
)
from sandbox.kafka.coordinator import HOST, Client
from sandbox.kafka.groups import Group
from sandbox.kafka.wire import Malformed, Reader, int16, int32, string, uvarint

log = logging.getLogger("sandbox.kafka")

_MOST_BYTES = 100 * 1024 * 1024
"""``socket.request.max.bytes`` of a real broker."""


class Server:
    """Listens for all brokers that are up; looks every 100 ms whether that changed."""

    def __init__(self, cluster: Cluster, user: str = "", certificate: Path | None = None) -> None:
        self.cluster, self.user = cluster, user
        self.tls: ssl.SSLContext | None = None
        if certificate:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(certificate)
        self.groups: dict[str, Group] = {}
        self.listening: dict[int, asyncio.Server] = {}
        self.connections: dict[int, set[asyncio.StreamWriter]] = {id: set() for id in cluster.ports}

    async def run(self, stopped: asyncio.Event) -> None:
        hung: set[int] = set()
        while not stopped.is_set():
            for id in hung - self.cluster.hanging:
                # A frozen process that is restarted: the requests that it swallowed are lost.
                self._hang_up(id)
            hung = set(self.cluster.hanging)
            for id, port in self.cluster.ports.items():
                if id in self.cluster.down and id in self.listening:
                    self._close(id)
                elif id not in self.cluster.down and id not in self.listening:
                    self.listening[id] = await asyncio.start_server(
                        lambda reader, writer, id=id: self._serve(id, reader, writer), HOST, port, ssl=self.tls
                    )
                    log.info("broker %d listens on %d", id, port)
            for group in self.groups.values():
                group.expire()
            if self.cluster.changed:
                self.cluster.save()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), 0.1)
        for id in list(self.listening):
            self._close(id)
        self.cluster.save()

    def _close(self, id: int) -> None:
        self.listening.pop(id).close()
        self._hang_up(id)
        log.info("broker %d is down", id)

    def _hang_up(self, id: int) -> None:
        for writer in self.connections[id]:
            writer.transport.abort()

    async def _serve(self, id: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections[id].add(writer)
        broker = Broker(self.cluster, id, self.groups)
        session = Session(broker, self.user, writer.get_extra_info("peername")[0])
        try:
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                if not 8 <= size <= _MOST_BYTES:
                    raise Malformed(f"a request of {size} bytes")
                message = await reader.readexactly(size)
                if id in self.cluster.hanging:
                    continue
                answer = await session.answer(message)
                if answer is not None:
                    writer.write(struct.pack(">i", len(answer)) + answer)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            log.debug("broker %d: a client left", id)
        except Malformed as wrong:
            log.warning("broker %d hangs up: %s", id, wrong)
        finally:
            self.connections[id].discard(writer)
            writer.close()


class Session:
    """One connection: reads headers, and lets nobody in before the password when one is set."""

    def __init__(self, broker: Broker, user: str, host: str) -> None:
        self.broker, self.user, self.host = broker, user, host
        self.trusted = not user

    async def answer(self, message: bytes) -> bytes | None:
        """:raises Malformed: then the connection is closed, as a real broker does."""
        reader = Reader(message)
        key, version = int16.read(reader, 0), int16.read(reader, 0)
        out = bytearray()
        int32.write(out, int32.read(reader, 0), 0)
        client = Client(string.read(reader, 0) or "", self.host)
        api = APIS.get(key)
        if api is API_VERSIONS:
            out += _versions(version)
            return bytes(out)
        if api is None or not api.least <= version <= api.most:
            raise Malformed(f"request {key} version {version}")
        try:
            request = api.request.read(reader, version)
        except (UnicodeDecodeError, struct.error) as wrong:
            raise Malformed(f"{api.name}: {wrong}") from wrong
        if not self.trusted or api in (SASL_HANDSHAKE, SASL_AUTHENTICATE):
            answered: dict[str, Any] | None = self._authenticate(api, request)
        else:
            answered = await getattr(self.broker, api.name)(request, client)
        if answered is None:
            return None
        api.response.write(out, answered, version)
        return bytes(out)

    def _authenticate(self, api: Api, request: dict[str, Any]) -> dict[str, Any]:
        if api is SASL_HANDSHAKE:
            known = request["mechanism"] == "PLAIN" and self.user
            return {"error": NONE if known else UNSUPPORTED_SASL_MECHANISM, "mechanisms": ["PLAIN"]}
        if api is SASL_AUTHENTICATE and self.user:
            _, name, password = (request["auth"] or b"").split(b"\0")
            self.trusted = f"{name.decode()}:{password.decode()}" == self.user
            error, message = (NONE, None) if self.trusted else (SASL_FAILED, "Authentication failed: Invalid username")
            return {"error": error, "message": message, "auth": b""}
        if api is SASL_AUTHENTICATE:
            return {"error": ILLEGAL_SASL_STATE, "message": "SASL is off", "auth": b""}
        raise Malformed(f"{api.name} before the password")


def _versions(version: int) -> bytes:
    """The answer to ApiVersions: its header is always the old one, and a too new request is answered in version 0."""
    if version > API_VERSIONS.most:
        return struct.pack(">hi", UNSUPPORTED_VERSION, 1) + struct.pack(">hhh", 18, 0, API_VERSIONS.most)
    spans = [struct.pack(">hhh", api.key, api.least, api.most) for api in APIS.values() if api is not CONTROL]
    if version == API_VERSIONS.most:
        return (
            struct.pack(">h", NONE)
            + uvarint(len(spans) + 1)
            + b"".join(span + b"\0" for span in spans)
            + struct.pack(">i", 0)
            + b"\0"
        )
    plain = struct.pack(">hi", NONE, len(spans)) + b"".join(spans)
    return plain if version == 0 else plain + struct.pack(">i", 0)


async def _main(arguments: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    ports = {id: port for id, port in enumerate(arguments.ports, 1)}
    cluster = Cluster.load(arguments.directory, ports)
    await Server(cluster, arguments.user, arguments.certificate).run(stopped)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m sandbox.kafka", description=__doc__)
    parser.add_argument("directory", type=Path, help="where logs and state are kept")
    parser.add_argument("ports", type=int, nargs="+", help="one for each broker")
    parser.add_argument("--user", default="", help="NAME:PASSWORD that clients must give (SASL PLAIN)")
    parser.add_argument("--certificate", type=Path, help="key, certificate and chain: then all brokers speak TLS")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    asyncio.run(_main(parser.parse_args()))
