"""The page for people: incidents, channels with their threads, and everything that arrived."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader

from sandbox.inboxes.mrkdwn import emoji, to_html

if TYPE_CHECKING:
    from sandbox.inboxes.server import Inboxes
    from sandbox.inboxes.slack_model import Channel

HEADERS = {
    # What arrives is shown, never run and never fetched.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
    ),
    "Cache-Control": "no-store",
}

MOST_SHOWN = 100

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    # Blocks are whatever was sent: a part that is missing is shown as nothing.
    undefined=ChainableUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(inboxes: Inboxes) -> str:
    now = datetime.now(UTC)
    return _ENVIRONMENT.get_template("page.html").render(
        now=now,
        scripts=list(inboxes.scripts),
        incidents=sorted(inboxes.pagerduty.incidents, key=lambda incident: incident.changed, reverse=True)[:MOST_SHOWN],
        states=_counts(inboxes),
        changes=list(reversed(inboxes.pagerduty.changes))[:MOST_SHOWN],
        channels=_channels(inboxes),
        quiet=[channel.name for channel in inboxes.slack.channels if not channel.messages],
        messages=sum(len(channel.messages) for channel in inboxes.slack.channels),
        events=list(reversed(inboxes.events))[:MOST_SHOWN],
        arrived=len(inboxes.events),
    )


def _counts(inboxes: Inboxes) -> dict[str, int]:
    counts = dict.fromkeys(("triggered", "acknowledged", "resolved"), 0)
    for incident in inboxes.pagerduty.incidents:
        counts[incident.state] += 1
    return counts


def _channels(inboxes: Inboxes) -> list[dict[str, Any]]:
    """Channels with messages, the latest first; in each the threads, likewise; in a thread the oldest first."""
    shown = [channel for channel in inboxes.slack.channels if channel.messages]
    shown.sort(key=lambda channel: channel.messages[-1].ts, reverse=True)
    return [{"channel": channel, "threads": _threads(channel)[:MOST_SHOWN]} for channel in shown]


def _threads(channel: Channel) -> list[dict[str, Any]]:
    threads: dict[str, dict[str, Any]] = {}
    for message in channel.messages:
        if message.thread_ts in (None, message.ts):
            threads[message.ts] = {"head": message, "replies": []}
        elif message.thread_ts in threads:
            threads[message.thread_ts]["replies"].append(message)
    return sorted(threads.values(), key=lambda t: (t["replies"] or [t["head"]])[-1].ts, reverse=True)


def _clock(time: str) -> str:
    """``2026-11-02T14:03:09.123456Z`` → ``14:03:09``, with the date when it is not today's."""
    moment = datetime.fromisoformat(time)
    return moment.strftime("%H:%M:%S" if moment.date() == datetime.now(UTC).date() else "%d %b %H:%M")


def _pretty(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def _safe_url(url: Any) -> str | None:
    """None for anything that a browser would run."""
    return url if isinstance(url, str) and url.startswith(("https://", "http://", "mailto:")) else None


_ENVIRONMENT.filters.update(mrkdwn=to_html, emoji=emoji, clock=_clock, pretty=_pretty, safe_url=_safe_url)
