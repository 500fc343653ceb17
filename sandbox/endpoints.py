"""
``python -m sandbox.endpoints``: the platforms' web and API front ends, one TLS server for all their names.

Everything but the sites themselves is read from a directory at each request and each handshake, so that faults need
no restart: ``faults.json`` says what is wrong with which host, ``<host>.pem`` next to it is that host's certificate.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

SLOW_S = 1.5
HANG_S = 120.0

PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title></head>
<body><h1>{title}</h1><p>{text}</p></body>
</html>
"""


@dataclass(frozen=True)
class Site:
    """What a host serves when all is well."""

    path: str
    content: str | dict[str, Any]

    def body(self, *, degraded: bool = False) -> tuple[str, bytes]:
        """Content type and bytes. A degraded site still answers 200: only its body says so."""
        if isinstance(self.content, dict):
            content = {**self.content, "status": "degraded"} if degraded else self.content
            return "application/json", json.dumps(content).encode()
        text = PAGE.format(title="Please wait", text="We are having a problem.") if degraded else self.content
        return "text/html", text.encode()


SITES: dict[str, Site] = {
    "api.studyspot.com": Site("/health", {"status": "ok", "version": "2.14.0"}),
    "www.studyspot.com": Site("/", PAGE.format(title="StudySpot", text="Find a free seat in a library near you.")),
    "api.adaptivelearning.com": Site("/health", {"status": "ok", "version": "5.3.1"}),
    "app.adaptivelearning.com": Site("/", PAGE.format(title="Adaptive Learning", text="Continue where you left off.")),
}

MODES = ("500", "hang", "slow", "degraded", "truncated", "reset")
"""What can be wrong with a host: status 500; no answer ever; an answer after 1.5 s; 200 with a body that says
``degraded``; a body cut short of its Content-Length; a connection dropped without an answer."""


class Faults:
    """``faults.json``: ``{"api.studyspot.com": {"studyspot_endpoint_500": "500"}}``; of several the last counts."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def mode(self, host: str) -> str | None:
        try:
            known = json.loads(self.file.read_text())
        except FileNotFoundError:
            return None
        return next(reversed(known.get(host, {}).values()), None)


class Certificates:
    """One TLS context per host, read again when its file was replaced: a renewal needs no restart."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._contexts: dict[str, tuple[int, ssl.SSLContext]] = {}
        self.default = self._load("default")
        self.default.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, host: str | None, _default: ssl.SSLContext) -> None:
        if host in SITES:
            connection.context = self._load(host)

    def _load(self, name: str) -> ssl.SSLContext:
        file = self.directory / f"{name}.pem"
        stamp = file.stat().st_mtime_ns
        if (known := self._contexts.get(name)) and known[0] == stamp:
            return known[1]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        self._contexts[name] = (stamp, context)
        return context


def application(faults: Faults) -> web.Application:
    async def answer(request: web.Request) -> web.StreamResponse:
        host = request.host.partition(":")[0].lower()
        site = SITES.get(host)
        if site is None:
            return web.Response(status=421, text=f"no site called {host}\n")
        match faults.mode(host):
            case "500":
                return web.json_response({"status": "error", "error": "internal server error"}, status=500)
            case "hang":
                await asyncio.sleep(HANG_S)
                return _dropped(request)
            case "reset":
                return _dropped(request)
            case "slow":
                await asyncio.sleep(SLOW_S)
                mode = "slow"
            case mode:
                pass
        if request.path != site.path:
            return web.Response(status=404, text="not found\n")
        kind, body = site.body(degraded=mode == "degraded")
        if mode == "truncated":
            response = web.StreamResponse(headers={"Content-Type": kind, "Content-Length": str(len(body))})
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
            if request.transport:
                request.transport.close()
            return response
        return web.Response(body=body, content_type=kind, charset="utf-8" if kind == "text/html" else None)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    return app


def _dropped(request: web.Request) -> web.Response:
    if request.transport:
        request.transport.abort()
    return web.Response()


async def serve(port: int, directory: Path) -> None:
    # Hanging answers must not delay the end of the process.
    runner = web.AppRunner(application(Faults(directory / "faults.json")), access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=Certificates(directory).default).start()
    done = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, done.set)
    await done.wait()
    await runner.cleanup()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox.endpoints", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--directory", type=Path, required=True, help="where faults.json and the certificates are")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(arguments.port, arguments.directory))
    return 0


if __name__ == "__main__":
    sys.exit(main())
