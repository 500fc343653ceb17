"""What tests ask the inboxes, and what they make them do."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from sandbox.home import Home, SandboxError


class Inbox:
    """The inboxes of one sandbox. Every list is in the order in which things arrived, the oldest first."""

    def __init__(self, home: Home) -> None:
        """:raises SandboxError: the inboxes of this sandbox were never started."""
        ports = home.state().get("ports", {})
        if "inboxes" not in ports:
            raise SandboxError(f"no inboxes in {home.path}\nHINT: python -m sandbox up --only inboxes")
        self.url = f"https://127.0.0.1:{ports['inboxes']}"
        self.page_url = f"http://127.0.0.1:{ports['inboxes.page']}"
        self._tls = ssl.create_default_context(cafile=str(home.path / "certificates" / "ca.pem"))

    def events(self, service: str | None = None) -> list[dict[str, Any]]:
        """
        Every request, refused ones too, of ``"pagerduty"``, of ``"slack"``, or of both.

        ``{"id", "time", "service", "method", "path", "query", "host", "headers", "body", "bytes", "accepted",
        "status", "answer", "scripted"}``; ``status`` None: no answer was given.
        """
        return [event for event in self._ask("GET", "events") if service in (None, event["service"])]

    def pagerduty(self) -> list[dict[str, Any]]:
        """
        Events API v2 events that were accepted.

        ``{"time", "service", "action", "dedup_key", "severity", "summary", "incident", "body"}``; ``incident`` is
        None when an acknowledge or resolve met nothing open.
        """
        return list(self._ask("GET", "pagerduty")["events"])

    def incidents(self) -> list[dict[str, Any]]:
        """``{"id", "key", "state", "alerts", "title", "severity", "service", "log", ...}``, see pagerduty.Incident."""
        return list(self._ask("GET", "pagerduty")["incidents"])

    def changes(self) -> list[dict[str, Any]]:
        """Change events: ``{"time", "service", "payload", "links"}``."""
        return list(self._ask("GET", "pagerduty")["changes"])

    def slack(self) -> list[dict[str, Any]]:
        """
        Messages that stand in any channel, by API or webhook.

        ``{"channel", "ts", "thread_ts", "time", "text", "blocks", "metadata", "mentions", "edited", "via", ...}``;
        ``channel`` is the name without #.
        """
        found = [
            {"channel": channel["name"], **message} for channel in self.channels() for message in channel["messages"]
        ]
        return sorted(found, key=lambda message: float(message["ts"]))

    def channels(self) -> list[dict[str, Any]]:
        """``{"id", "name", "members", "topic", "archived", "messages", ...}``, see slack_model.Channel."""
        return list(self._ask("GET", "slack")["channels"])

    def mails(self) -> list[dict[str, Any]]:
        """``{"from", "to", "subject", "message_id", "body"}``."""
        return list(self._ask("GET", "mail"))

    def heartbeats(self) -> dict[str, dict[str, Any]]:
        """Who gave a sign of life: ``{"upkeep": {"count", "last", "silent_s"}}``."""
        return dict(self._ask("GET", "heartbeats"))

    def purged(self) -> list[dict[str, Any]]:
        """What the CDN was asked to forget: ``{"files": [...]}``."""
        return list(self._ask("GET", "purged"))

    def script(self, path: str, **misbehave: Any) -> None:
        """
        Let requests to ``path`` (a shell pattern) misbehave; see sandbox.inboxes.script.Script for what there is.

        ``script("/v2/enqueue", status=429, headers={"Retry-After": "2"}, times=3)``;
        ``script("/api/chat.postMessage", accept=True, hang_s=30, times=1)`` takes the message and does not say so.

        :raises SandboxError: there is no such misbehaviour.
        """
        self._ask("POST", "script", {"path": path, **misbehave})

    def scripts(self) -> list[dict[str, Any]]:
        return list(self._ask("GET", "script"))

    def unscript(self, name: str | None = None) -> None:
        """End one script by its name, or all."""
        self._ask("DELETE", "script" + (f"?name={urllib.parse.quote(name)}" if name else ""))

    def reset(self, *, scripts: bool = True) -> None:
        """Forget everything that arrived, and all scripts unless ``scripts`` is False."""
        self._ask("POST", "reset" if scripts else "reset?scripts=keep")

    def _ask(self, method: str, what: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"{self.url}/_sandbox/{what}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10, context=self._tls) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refused:
            raise SandboxError(f"the inboxes refuse: {json.load(refused)['error']}") from None
