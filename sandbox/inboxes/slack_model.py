"""What a Slack workspace is made of, and how it is shown to those who ask."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sandbox.inboxes import block_kit

TEAM = "T0UPKEEP"
BOT = {"user": "U0UPKEEP", "bot": "B0UPKEEP", "name": "upkeep"}

Arguments = Mapping[str, Any]


class SlackError(Exception):
    """Refused with status 200 and ``"ok": false``."""

    def __init__(self, error: str, *messages: str) -> None:
        super().__init__(error)
        self.error = error
        self.messages = messages


@dataclass
class Message:
    ts: str
    time: str
    user: str
    text: str
    blocks: list[dict[str, Any]] = field(default_factory=list)
    thread_ts: str | None = None
    metadata: dict[str, Any] | None = None
    mentions: list[str] = field(default_factory=list)
    """Who was called by it, ``["@here"]``: text that nobody meant as a call shows up here."""

    via: str = "api"
    """``api`` or ``webhook``."""

    edited: str | None = None
    reactions: list[str] = field(default_factory=list)
    pinned: bool = False


@dataclass
class Channel:
    id: str
    name: str
    members: list[str]
    created: str
    topic: str = ""
    purpose: str = ""
    archived: bool = False
    messages: list[Message] = field(default_factory=list)


def content(arguments: Arguments) -> tuple[str, list[dict[str, Any]]]:
    text = str(arguments.get("text") or "")
    blocks = decoded(arguments.get("blocks"), "invalid_blocks_format") or []
    if wrong := block_kit.errors(blocks):
        raise SlackError("invalid_blocks", *wrong)
    if block_kit.characters(blocks) > block_kit.MOST_CHARACTERS:
        raise SlackError("msg_blocks_too_long")
    if len(text) > block_kit.MOST_TEXT:
        raise SlackError("msg_too_long")
    if not text and not blocks and not arguments.get("attachments"):
        raise SlackError("no_text")
    return text, blocks


def decoded(value: Any, error: str) -> Any:
    """Forms carry blocks and metadata as JSON text."""
    if not isinstance(value, str) or not value:
        return value or None
    decoded = loads(value)
    if decoded is None:
        raise SlackError(error)
    return decoded


def loads(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def number(arguments: Arguments, name: str, default: float) -> float:
    """:raises SlackError: it is something else."""
    try:
        return float(arguments.get(name) or default)
    except (TypeError, ValueError):
        raise SlackError("invalid_arguments") from None


def short_text(arguments: Arguments, name: str) -> str:
    text = str(arguments.get(name, ""))
    if len(text) > 250:
        raise SlackError("too_long")
    return text


def between(messages: list[Message], arguments: Arguments) -> list[Message]:
    oldest, latest = number(arguments, "oldest", 0.0), number(arguments, "latest", math.inf)
    inclusive = str(arguments.get("inclusive", "")).lower() in ("1", "true")
    return [
        message
        for message in messages
        if oldest < float(message.ts) < latest or (inclusive and float(message.ts) in (oldest, latest))
    ]


def paged(messages: list[Message], arguments: Arguments) -> dict[str, Any]:
    start = int(number(arguments, "cursor", 0))
    end = start + int(number(arguments, "limit", 100))
    # Slack leaves metadata out unless it is asked for; whoever looks for a dedup_key must ask.
    metadata = str(arguments.get("include_all_metadata", "")).lower() in ("1", "true")
    return {
        "messages": [shown_message(message, metadata=metadata) for message in messages[start:end]],
        "has_more": end < len(messages),
        "response_metadata": {"next_cursor": str(end) if end < len(messages) else ""},
    }


def shown_message(message: Message, *, metadata: bool = True) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "type": "message",
        "user": message.user,
        "bot_id": BOT["bot"],
        "ts": message.ts,
        "text": message.text,
    }
    if message.blocks:
        shown["blocks"] = message.blocks
    if message.thread_ts:
        shown["thread_ts"] = message.thread_ts
    if message.metadata and metadata:
        shown["metadata"] = message.metadata
    if message.edited:
        shown["edited"] = {"user": message.user, "ts": message.ts}
    return shown


def shown_person(id_: str, email: str) -> dict[str, Any]:
    return {"id": id_, "name": email.partition("@")[0], "profile": {"email": email}}


def made_id(kind: str, seed: str) -> str:
    return kind + hashlib.sha256(seed.encode()).hexdigest()[:10].upper()


def iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
