"""A Slack workspace: channels, threads, a bot with a token, and incoming webhooks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sandbox.inboxes import block_kit
from sandbox.inboxes.slack_model import (
    BOT,
    TEAM,
    Arguments,
    Channel,
    Message,
    SlackError,
    between,
    content,
    decoded,
    iso,
    loads,
    made_id,
    number,
    paged,
    short_text,
    shown_message,
    shown_person,
)
from sandbox.inboxes.wire import Answer, Request


class Slack:
    """
    State and rules. Every answer follows from the requests and their times alone, so replaying them restores it.

    :param token: of the bot, ``xoxb-...``.
    :param webhooks: ``{"T0UPKEEP/B1/secret": "ops"}``, path below ``/services/`` to channel name.
    :param channels: names of channels that exist and that the bot is a member of.
    :param strangers: names of channels that exist without the bot.
    :param users: e-mail addresses of people.
    """

    def __init__(
        self,
        *,
        token: str,
        webhooks: Mapping[str, str],
        channels: Sequence[str],
        strangers: Sequence[str],
        users: Sequence[str],
    ) -> None:
        self.token = token
        self.webhooks = webhooks
        self.users = {made_id("U", email): email for email in users}
        self.channels: list[Channel] = []
        for name in (*channels, *strangers):
            members = [BOT["user"]] if name in channels else []
            self.channels.append(Channel(made_id("C", name), name, [*members, *self.users], ""))
        self._last_ts = 0

    def json(self) -> dict[str, Any]:
        return {"channels": [asdict(channel) for channel in self.channels]}

    def refusal(self, request: Request) -> Answer | None:
        """Why this sender may not ask at all; None when it may."""
        if request.path.startswith("/services/") or request.path == "/api/api.test":
            return None
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not given and isinstance(request.body, dict):
            given = str(request.body.get("token", ""))
        if given == self.token:
            return None
        return Answer(200, {"ok": False, "error": "invalid_auth" if given else "not_authed"})

    def answer(self, request: Request, now: datetime) -> Answer:
        if request.path.startswith("/services/"):
            return self._webhook(request, now)
        call = self._methods().get(request.path.removeprefix("/api/"))
        if call is None:
            return Answer(200, {"ok": False, "error": "unknown_method", "req_method": request.path[5:]})
        arguments = {**request.query, **(request.body if isinstance(request.body, dict) else {})}
        try:
            return Answer(200, {"ok": True, **call(arguments, now)}, {"X-OAuth-Scopes": "chat:write,channels:manage"})
        except SlackError as refused:
            body: dict[str, Any] = {"ok": False, "error": refused.error}
            if refused.messages:
                body["errors"] = list(refused.messages)
                body["response_metadata"] = {"messages": [f"[ERROR] {message}" for message in refused.messages]}
            return Answer(200, body)

    def _methods(self) -> dict[str, Callable[[Arguments, datetime], dict[str, Any]]]:
        return {
            "api.test": lambda arguments, _: {"args": dict(arguments)},
            "auth.test": self._auth_test,
            "chat.postMessage": self._post,
            "chat.update": self._update,
            "chat.delete": self._delete,
            "chat.getPermalink": self._permalink,
            "conversations.create": self._create,
            "conversations.list": self._list,
            "conversations.info": lambda arguments, _: {"channel": self._shown(self._channel(arguments))},
            "conversations.invite": self._invite,
            "conversations.join": self._join,
            "conversations.members": lambda arguments, _: {"members": list(self._channel(arguments).members)},
            "conversations.setTopic": self._set_topic,
            "conversations.setPurpose": self._set_purpose,
            "conversations.archive": self._archive,
            "conversations.unarchive": self._unarchive,
            "conversations.history": self._history,
            "conversations.replies": self._replies,
            "reactions.add": self._react,
            "pins.add": self._pin,
            "users.list": lambda *_: {"members": [shown_person(*item) for item in self.users.items()]},
            "users.lookupByEmail": self._lookup,
        }

    # -- messages ----------------------------------------------------------------------------------------

    def _auth_test(self, _arguments: Arguments, _now: datetime) -> dict[str, Any]:
        return {
            "url": "https://upkeep.slack.com/",
            "team": "Upkeep sandbox",
            "team_id": TEAM,
            "user": BOT["name"],
            "user_id": BOT["user"],
            "bot_id": BOT["bot"],
            "is_enterprise_install": False,
        }

    def _post(self, arguments: Arguments, now: datetime) -> dict[str, Any]:
        channel = self._writable(arguments)
        message = self._message(channel, arguments, now)
        channel.messages.append(message)
        return {"channel": channel.id, "ts": message.ts, "message": shown_message(message)}

    def _message(self, channel: Channel, arguments: Arguments, now: datetime) -> Message:
        text, blocks = content(arguments)
        thread = arguments.get("thread_ts")
        if thread and not any(message.ts == thread for message in channel.messages):
            raise SlackError("cannot_reply_to_message")
        metadata = decoded(arguments.get("metadata"), "invalid_metadata_format")
        if metadata is not None and not (
            isinstance(metadata, dict)
            and isinstance(metadata.get("event_type"), str)
            and isinstance(metadata.get("event_payload"), dict)
        ):
            raise SlackError("invalid_metadata_format")
        link_names = arguments.get("parse") == "full" or str(arguments.get("link_names", "")).lower() in ("1", "true")
        return Message(
            ts=self._ts(now),
            time=iso(now),
            user=BOT["user"],
            text=text,
            blocks=blocks,
            thread_ts=thread,
            metadata=metadata,
            mentions=block_kit.mentions(text, blocks, link_names=link_names),
        )

    def _update(self, arguments: Arguments, now: datetime) -> dict[str, Any]:
        channel = self._writable(arguments)
        message = self._found(channel, arguments)
        message.text, message.blocks = content(arguments)
        message.metadata = decoded(arguments.get("metadata"), "invalid_metadata_format") or message.metadata
        message.edited = iso(now)
        return {"channel": channel.id, "ts": message.ts, "text": message.text, "message": shown_message(message)}

    def _delete(self, arguments: Arguments, _now: datetime) -> dict[str, Any]:
        channel = self._writable(arguments)
        message = self._found(channel, arguments)
        channel.messages.remove(message)
        return {"channel": channel.id, "ts": message.ts}

    def _permalink(self, arguments: Arguments, _now: datetime) -> dict[str, Any]:
        channel = self._channel(arguments)
        message = self._found(channel, arguments, "message_ts")
        link = f"https://upkeep.slack.com/archives/{channel.id}/p{message.ts.replace('.', '')}"
        return {"channel": channel.id, "permalink": link}

    def _react(self, arguments: Arguments, _now: datetime) -> dict[str, Any]:
        message = self._found(self._writable(arguments), arguments, "timestamp")
        if arguments.get("name") in message.reactions:
            raise SlackError("already_reacted")
        message.reactions.append(str(arguments.get("name", "")))
        return {}

    def _pin(self, arguments: Arguments, _now: datetime) -> dict[str, Any]:
        message = self._found(self._writable(arguments), arguments, "timestamp")
        if message.pinned:
            raise SlackError("already_pinned")
        message.pinned = True
        return {}

    def _history(self, arguments: Arguments, _now: datetime) -> dict[str, Any]:
        channel = self._member(arguments)
        found = [message for message in channel.messages if message.thread_ts in (None, message.ts)]
        return paged(list(reversed(between(found, arguments))), arguments)

    def _replies(self, arguments: Arguments, _now: datetime) -> dict[str, Any]:
        channel = self._member(arguments)
        parent = self._found(channel, arguments, error="thread_not_found")
        replies = [message for message in channel.messages if message.thread_ts == parent.ts and message is not parent]
        return paged([parent, *between(replies, arguments)], arguments)

    def _found(
        self, channel: Channel, arguments: Arguments, name: str = "ts", error: str = "message_not_found"
    ) -> Message:
        for message in channel.messages:
            if message.ts == arguments.get(name):
                return message
        raise SlackError(error)

    # -- channels ----------------------------------------------------------------------------------------

    def _create(self, arguments: Arguments, now: datetime) -> dict[str, Any]:
        name = str(arguments.get("name", ""))
        if not name:
            raise SlackError("invalid_name_required")
        if len(name) > 80:
            raise SlackError("invalid_name_maxlength")
        if not re.fullmatch(r"[a-z0-9_-]+", name):
            raise SlackError("invalid_name_specials")
        if not re.search(r"[a-z0-9]", name):
            raise SlackError("invalid_name_punctuation")
        if any(channel.name == name for channel in self.channels):
            raise SlackError("name_taken")
        channel = Channel(made_id("C", name), name, [BOT["user"]], iso(now))
        self.channels.append(channel)
        return {"channel": self._shown(channel)}

    def _list(self, arguments: Arguments, _now: datetime) -> dict[str, Any]:
        without_archived = str(arguments.get("exclude_archived", "")).lower() in ("1", "true")
        found = [self._shown(c) for c in self.channels if not (without_archived and c.archived)]
        start = int(number(arguments, "cursor", 0))
        end = start + int(number(arguments, "limit", 100))
        return {
            "channels": found[start:end],
            "response_metadata": {"next_cursor": str(end) if end < len(found) else ""},
        }

    def _invite(self, arguments: Arguments, _now: datetime) -> dict[str, Any]:
        channel = self._writable(arguments)
        users = [user for user in str(arguments.get("users", "")).split(",") if user]
        if not users:
            raise SlackError("no_user")
        for user in users:
            if user == BOT["user"]:
                raise SlackError("cant_invite_self")
            if user not in self.users:
                raise SlackError("user_not_found")
            if user in channel.members:
                raise SlackError("already_in_channel")
        channel.members += users
        return {"channel": self._shown(channel)}

    def _join(self, arguments: Arguments, _now: datetime) -> dict[str, Any]:
        channel = self._channel(arguments)
        if channel.archived:
            raise SlackError("is_archived")
        if BOT["user"] not in channel.members:
            channel.members.append(BOT["user"])
        return {"channel": self._shown(channel)}

    def _set_topic(self, arguments: Arguments, _now: datetime) -> dict[str, Any]:
        channel = self._writable(arguments)
        channel.topic = short_text(arguments, "topic")
        return {"channel": self._shown(channel), "topic": channel.topic}

    def _set_purpose(self, arguments: Arguments, _now: datetime) -> dict[str, Any]:
        channel = self._writable(arguments)
        channel.purpose = short_text(arguments, "purpose")
        return {"channel": self._shown(channel), "purpose": channel.purpose}

    def _archive(self, arguments: Arguments, _now: datetime) -> dict[str, Any]:
        channel = self._member(arguments)
        if channel.archived:
            raise SlackError("already_archived")
        channel.archived = True
        return {}

    def _unarchive(self, arguments: Arguments, _now: datetime) -> dict[str, Any]:
        channel = self._channel(arguments)
        if not channel.archived:
            raise SlackError("not_archived")
        channel.archived = False
        return {}

    def _lookup(self, arguments: Arguments, _now: datetime) -> dict[str, Any]:
        for id_, email in self.users.items():
            if email == arguments.get("email"):
                return {"user": shown_person(id_, email)}
        raise SlackError("users_not_found")

    def _channel(self, arguments: Arguments) -> Channel:
        """By id; by name, with or without #, as chat.postMessage takes it."""
        asked = str(arguments.get("channel", ""))
        for channel in self.channels:
            if asked in (channel.id, channel.name, f"#{channel.name}"):
                return channel
        raise SlackError("channel_not_found")

    def _member(self, arguments: Arguments) -> Channel:
        channel = self._channel(arguments)
        if BOT["user"] not in channel.members:
            raise SlackError("not_in_channel")
        return channel

    def _writable(self, arguments: Arguments) -> Channel:
        channel = self._member(arguments)
        if channel.archived:
            raise SlackError("is_archived")
        return channel

    @staticmethod
    def _shown(channel: Channel) -> dict[str, Any]:
        return {
            "id": channel.id,
            "name": channel.name,
            "is_channel": True,
            "is_archived": channel.archived,
            "is_member": BOT["user"] in channel.members,
            "num_members": len(channel.members),
            "topic": {"value": channel.topic},
            "purpose": {"value": channel.purpose},
        }

    # -- incoming webhooks -------------------------------------------------------------------------------

    def _webhook(self, request: Request, now: datetime) -> Answer:
        """A webhook belongs to one channel; ``channel``, ``username`` and icons in the message are ignored."""
        name = self.webhooks.get(request.path.removeprefix("/services/"))
        if name is None:
            return Answer(404, "no_service")
        body = request.body
        if isinstance(body, dict) and isinstance(body.get("payload"), str):
            body = loads(body["payload"])
        if not isinstance(body, dict):
            return Answer(400, "invalid_payload")
        channel = next(channel for channel in self.channels if channel.name == name)
        if channel.archived:
            return Answer(410, "channel_is_archived")
        try:
            message = self._message(channel, body, now)
        except SlackError as refused:
            return Answer(400, refused.error)
        message.via = "webhook"
        channel.messages.append(message)
        return Answer(200, "ok")

    def _ts(self, now: datetime) -> str:
        """Message ids are times in µs that never repeat."""
        self._last_ts = max(int(now.timestamp() * 1_000_000), self._last_ts + 1)
        return f"{self._last_ts // 1_000_000}.{self._last_ts % 1_000_000:06d}"
