"""The server: receives, misbehaves when told to, records, and shows."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from sandbox.inboxes import cloudflare, heartbeats, page
from sandbox.inboxes.cloudflare import Cloudflare
from sandbox.inboxes.heartbeats import Heartbeats
from sandbox.inboxes.journal import Journal
from sandbox.inboxes.mail import serve_mail
from sandbox.inboxes.pagerduty import PagerDuty
from sandbox.inboxes.script import Script, Scripts
from sandbox.inboxes.slack import Slack
from sandbox.inboxes.wire import Answer, Request, decode

SECRET_HEADERS = ("authorization", "cookie")
MOST_BODY_BYTES = 16 * 1024 * 1024
MOST_KEPT_CHARACTERS = 1024 * 1024
MOST_KEPT_ANSWER = 2000

WHOSE = {"/api/": "slack", "/services/": "slack", heartbeats.PREFIX: "heartbeat", cloudflare.PREFIX: "cloudflare"}
"""Whom a path belongs to; all others are PagerDuty's."""


@dataclass(frozen=True)
class Config:
    """Names, keys and people; ``--config FILE`` as JSON, because keys do not belong on a command line."""

    routing_keys: dict[str, str]
    pagerduty_token: str
    slack_token: str
    webhooks: dict[str, str]
    channels: list[str]
    strangers: list[str]
    users: list[str]
    cloudflare_zone: str
    cloudflare_token: str


class Inboxes:
    """Everything that arrived, and the services' state that follows from it."""

    def __init__(self, config: Config, journal: Journal) -> None:
        self.config = config
        self.journal = journal
        self.scripts = Scripts()
        self._forget()
        for line in journal:
            self._replay(line)

    def _forget(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.mails: list[dict[str, Any]] = []
        self.heartbeats = Heartbeats()
        self.cloudflare = Cloudflare(zone=self.config.cloudflare_zone, token=self.config.cloudflare_token)
        self.pagerduty = PagerDuty(
            routing_keys=self.config.routing_keys, token=self.config.pagerduty_token, users=self.config.users
        )
        self.slack = Slack(
            token=self.config.slack_token,
            webhooks=self.config.webhooks,
            channels=self.config.channels,
            strangers=self.config.strangers,
            users=self.config.users,
        )

    def _replay(self, line: Mapping[str, Any]) -> None:
        if event := line.get("event"):
            self.events.append(event)
            if event["scripted"]:
                self.scripts.use(event["scripted"])
            if event["accepted"]:
                request = Request(
                    event["method"], event["path"], event["query"], event["headers"], event["body"], event["bytes"]
                )
                self._service(event["service"]).answer(request, datetime.fromisoformat(event["time"]))
        elif mail := line.get("mail"):
            self.mails.append(mail)
        elif script := line.get("script"):
            self.scripts.add(Script(**script))
        elif "unscript" in line:
            self.scripts.remove(line["unscript"])

    def _service(self, name: str) -> PagerDuty | Slack | Heartbeats | Cloudflare:
        services = {"heartbeat": self.heartbeats, "slack": self.slack, "cloudflare": self.cloudflare}
        return services.get(name, self.pagerduty)

    def take_mail(self, mail: dict[str, Any]) -> None:
        self.mails.append(mail)
        self.journal.write(mail=mail)

    def receive(self, request: Request) -> tuple[dict[str, Any], Script | None, Answer | None]:
        """
        Record a request and let it take effect, unless a script says otherwise.

        The event: ``{"id", "time", "service", "method", "path", "query", "host", "headers", "body", "bytes",
        "accepted", "status", "answer", "scripted"}``; ``accepted`` is whether its service acted on it, ``status``
        what the sender is told (None: nothing), ``scripted`` the script's name.

        :returns: the event, the script that applies, and the answer (None: drop the connection).
        """
        now = datetime.now(UTC)
        name = next((name for start, name in WHOSE.items() if request.path.startswith(start)), "pagerduty")
        service = self._service(name)
        body = request.body if isinstance(request.body, dict) else {}
        rate_key = str(body.get("channel") or body.get("routing_key") or "")
        script = self.scripts.take(name, request.path, rate_key, now.timestamp())
        answer, accepted = None, False
        if script is None or script.accept:
            answer = service.refusal(request)
            if answer is None:
                answer = service.answer(request, now)
                accepted = answer.ok
        if script:
            answer = None if script.close else script.answer(name) or answer
        event = {
            "id": len(self.events) + 1,
            "time": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "service": name,
            "method": request.method,
            "path": request.path,
            "query": dict(request.query),
            "host": request.headers.get("host", ""),
            "headers": {key: value for key, value in request.headers.items() if key not in SECRET_HEADERS},
            "body": _kept(request.body),
            "bytes": request.size,
            "accepted": accepted,
            "status": answer.status if answer else None,
            "answer": answer.body if answer and len(str(answer.body)) <= MOST_KEPT_ANSWER else None,
            "scripted": script.name if script else None,
        }
        self.events.append(event)
        self.journal.write(event=event)
        return event, script, answer

    def add_script(self, asked: Any) -> Script:
        """:raises ValueError: not a script."""
        script = Script.parse(asked)
        self.scripts.add(script)
        self.journal.write(script=script.json() | {"used": 0})
        return script

    def remove_script(self, name: str | None) -> None:
        self.scripts.remove(name)
        self.journal.write(unscript=name)

    def reset(self, *, scripts: bool = True) -> None:
        """Forget all that arrived; ``scripts=False`` keeps misbehaving as before."""
        if scripts:
            self.scripts.remove(None)
        self._forget()
        self.journal.clear()
        for script in self.scripts:
            self.journal.write(script=script.json())


def _kept(body: Any) -> Any:
    """Without Slack's token, and without megabytes of rubbish."""
    if isinstance(body, dict) and "token" in body:
        body = {**body, "token": "(hidden)"}
    if isinstance(body, str) and len(body) > MOST_KEPT_CHARACTERS:
        return body[:1000] + f"... ({len(body)} characters)"
    return body


# -- HTTP ------------------------------------------------------------------------------------------------


async def _request(asked: web.Request) -> Request:
    raw = await asked.read()
    return Request(
        method=asked.method,
        path=asked.path,
        query={key: ",".join(asked.query.getall(key)) for key in asked.query},
        headers={key.lower(): value for key, value in asked.headers.items()},
        body=decode(raw, asked.content_type),
        size=len(raw),
    )


def service_application(inboxes: Inboxes) -> web.Application:
    """Both services, the control paths below ``/_sandbox/``, and the page."""

    async def arrive(asked: web.Request) -> web.StreamResponse:
        _, script, answer = inboxes.receive(await _request(asked))
        if script and script.hang_s:
            await asyncio.sleep(script.hang_s)
        if answer is None:
            if asked.transport:
                asked.transport.abort()
            return web.Response()
        if isinstance(answer.body, str):
            return web.Response(status=answer.status, text=answer.body, headers=answer.headers)
        return web.json_response(answer.body, status=answer.status, headers=answer.headers)

    async def add_script(asked: web.Request) -> web.StreamResponse:
        try:
            script = inboxes.add_script(await asked.json())
        except (ValueError, TypeError) as wrong:
            return web.json_response({"error": str(wrong)}, status=400)
        return web.json_response(script.json())

    async def remove_script(asked: web.Request) -> web.StreamResponse:
        inboxes.remove_script(asked.query.get("name"))
        return web.json_response({})

    async def reset(asked: web.Request) -> web.StreamResponse:
        inboxes.reset(scripts=asked.query.get("scripts") != "keep")
        return web.json_response({})

    app = page_application(inboxes)
    app.router.add_post("/_sandbox/script", add_script)
    app.router.add_delete("/_sandbox/script", remove_script)
    app.router.add_post("/_sandbox/reset", reset)
    app.router.add_route("*", "/{path:.+}", arrive)
    return app


def page_application(inboxes: Inboxes) -> web.Application:
    """For people, and everything that only reads."""

    async def show(_: web.Request) -> web.StreamResponse:
        return web.Response(text=page.render(inboxes), content_type="text/html", headers=page.HEADERS)

    async def events(asked: web.Request) -> web.StreamResponse:
        after = int(asked.query.get("after", 0))
        return web.json_response(inboxes.events[after:])

    async def pagerduty(_: web.Request) -> web.StreamResponse:
        return web.json_response(inboxes.pagerduty.json())

    async def slack(_: web.Request) -> web.StreamResponse:
        return web.json_response(inboxes.slack.json())

    async def mail(_: web.Request) -> web.StreamResponse:
        return web.json_response(inboxes.mails)

    async def signs_of_life(_: web.Request) -> web.StreamResponse:
        return web.json_response(inboxes.heartbeats.json(datetime.now(UTC)))

    async def purged(_: web.Request) -> web.StreamResponse:
        return web.json_response(inboxes.cloudflare.purged)

    async def scripts(_: web.Request) -> web.StreamResponse:
        return web.json_response([script.json() for script in inboxes.scripts])

    app = web.Application(client_max_size=MOST_BODY_BYTES)
    app.router.add_get("/", show)
    app.router.add_get("/_sandbox/events", events)
    app.router.add_get("/_sandbox/pagerduty", pagerduty)
    app.router.add_get("/_sandbox/slack", slack)
    app.router.add_get("/_sandbox/mail", mail)
    app.router.add_get("/_sandbox/heartbeats", signs_of_life)
    app.router.add_get("/_sandbox/purged", purged)
    app.router.add_get("/_sandbox/script", scripts)
    return app


async def serve(
    *, port: int, page_port: int | None, mail_port: int | None, certificate: Path, state: Path, config: Path
) -> None:
    inboxes = Inboxes(Config(**json.loads(config.read_text())), Journal(state))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    # Hanging answers must not delay the end of the process.
    services = web.AppRunner(service_application(inboxes), access_log=None, shutdown_timeout=0.2)
    people = web.AppRunner(page_application(inboxes), access_log=None, shutdown_timeout=0.2)
    for runner in (services, people):
        await runner.setup()
    await web.TCPSite(services, "127.0.0.1", port, ssl_context=tls).start()
    if page_port:
        await web.TCPSite(people, "127.0.0.1", page_port).start()
    mail = await serve_mail(mail_port, inboxes.take_mail) if mail_port else None
    done = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, done.set)
    await done.wait()
    if mail:
        mail.close()
    for runner in (services, people):
        await runner.cleanup()
