"""The outbox: what must be told, kept until somebody confirmed that it arrived."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from upkeep.ledger.jsonb import jsonb
from upkeep.ledger.run import Connection

if TYPE_CHECKING:
    from upkeep.ledger.store import Ledger

Channel = Literal["pagerduty", "slack", "email"]
Event = Literal["trigger", "acknowledge", "resolve", "remind", "update", "change"]


@dataclass(frozen=True)
class Thread:
    """Where an alert stands in Slack."""

    channel_id: str
    ts: str


class Delivered(str):
    """What the channel answered, and the thread that it began."""

    thread: Thread | None = None


@dataclass(frozen=True, kw_only=True)
class Message:
    """One thing to tell over one channel."""

    key: str
    platform: str
    channel: Channel
    event: Event
    severity: str
    payload: Mapping[str, Any]
    """What the channel's sender needs; JSON values only."""

    spool_id: str | None = None
    """A message with a known one is taken in only once."""

    id: int = 0
    """Its row; 0 before it has one."""

    attempts: int = 0
    """How often it was tried before; somebody may have seen it all the same."""

    created_s: float = 0.0
    """When it was put into the outbox, Unix time."""

    thread: Thread | None = None
    """Where what was told before about the same key stands."""


class NotDelivered(Exception):
    """The channel did not confirm."""

    def __init__(
        self, answer: str, *, permanent: bool = False, retry_after_s: float | None = None, down: bool = False
    ) -> None:
        super().__init__(answer)
        self.answer = answer
        self.permanent = permanent
        """Trying again cannot help: the message itself was refused."""

        self.retry_after_s = retry_after_s
        self.down = down
        """Nothing else would arrive there now, either."""


def enqueue(connection: Connection, message: Message) -> None:
    connection.execute(
        "insert into outbox (key, platform, channel, event, severity, payload, spool_id)"
        " values (%s, %s, %s, %s, %s, %s, %s) on conflict (spool_id) do nothing",
        [
            message.key, message.platform, message.channel, message.event, message.severity,
            jsonb(dict(message.payload)), message.spool_id,
        ],
    )  # fmt: skip


Send = Callable[[Message], str]
"""Delivers one message and returns the channel's answer. :raises NotDelivered: it did not confirm."""

_DUE = """
select id, key, platform, channel, event, severity, payload, attempts, extract(epoch from created_at) as created_s,
    (select array[t.channel_id, t.ts] from threads as t
    where t.key = o.key and t.channel = o.payload -> 'message' ->> 'channel') as thread
from outbox as o
where state = 'pending' and next_attempt_at <= clock_timestamp()
    and (%(keys)s::text[] is null or key = any(%(keys)s))
    and (%(id)s::bigint is null or id = %(id)s)
    -- Yesterday's change is no news.
    and not (event = 'change' and created_at < clock_timestamp() - interval '1 day')
    -- Whoever is down is asked once, not once per message.
    and not channel || ' ' || (payload ->> 'conn_id') = any(%(down)s)
    -- A resolve never overtakes its trigger.
    and not exists (
        select from outbox as earlier
        where earlier.key = o.key and earlier.channel = o.channel and earlier.state = 'pending' and earlier.id < o.id
    )
order by id limit 1 for update skip locked
"""


def deliver(
    ledger: Ledger, send: Send, *, keys: Sequence[str] | None = None, most: int = 500, budget_s: float = 60.0
) -> dict[str, int]:
    """
    Send what is due, oldest first, each row claimed by its lock for as long as its send takes.

    :param keys: only messages of these findings; None for all.
    :param budget_s: no send begins after this many seconds.
    :returns: how many were delivered, put off and refused for good.
    """
    counts = {"delivered": 0, "put off": 0, "refused": 0}
    began = time.monotonic()
    down: list[str] = []
    due = {"keys": list(keys) if keys is not None else None, "down": down}
    for _ in range(most):
        if time.monotonic() - began > budget_s:
            break
        id = _begin(ledger, due)
        if id is None:
            break
        with ledger.transaction() as connection:
            row = connection.execute(_DUE, {**due, "id": id}).fetchone()
            if row is None:
                # Another deliverer was quicker.
                continue
            message = Message(
                key=row["key"],
                platform=row["platform"],
                channel=row["channel"],
                event=row["event"],
                severity=row["severity"],
                payload=row["payload"],
                id=row["id"],
                attempts=row["attempts"] - 1,
                created_s=float(row["created_s"]),
                thread=Thread(*row["thread"]) if row["thread"] else None,
            )
            try:
                answer = send(message)
            except NotDelivered as failure:
                counts["refused" if failure.permanent else "put off"] += 1
                _put_off(connection, row, failure)
                if failure.down:
                    down.append(f"{message.channel} {message.payload.get('conn_id')}")
                    _all_wait(connection, message, failure)
            else:
                counts["delivered"] += 1
                _delivered(connection, row["id"], answer)
                if isinstance(answer, Delivered) and answer.thread and message.event == "trigger":
                    _begin_thread(connection, message, answer.thread)
    return counts


def _begin(ledger: Ledger, due: Mapping[str, Any]) -> int | None:
    """
    Count the attempt before it is made: whoever comes after a deliverer that was killed knows that it may have arrived.

    Nothing is claimed by it. Of two that begin the same message one sends it.
    """
    with ledger.transaction() as connection:
        row = connection.execute(_DUE, {**due, "id": None}).fetchone()
        if row is None:
            return None
        connection.execute("update outbox set attempts = attempts + 1 where id = %s", [row["id"]])
        return int(row["id"])


def _delivered(connection: Connection, id: int, answer: str) -> None:
    connection.execute("update outbox set state = 'delivered', delivered_at = clock_timestamp() where id = %s", [id])
    connection.execute(
        "insert into deliveries (outbox_id, delivered, answer) values (%s, true, %s)", [id, answer[:1000]]
    )


def _put_off(connection: Connection, row: Mapping[str, Any], failure: NotDelivered) -> None:
    # 15 s, 30 s, 1 min … 15 min, unless the channel said when.
    wait_s = failure.retry_after_s or min(15 * 2 ** (row["attempts"] - 1), 900)
    connection.execute(
        "update outbox set state = %s, next_attempt_at = clock_timestamp() + make_interval(secs => %s) where id = %s",
        ["failed" if failure.permanent else "pending", wait_s, row["id"]],
    )
    connection.execute(
        "insert into deliveries (outbox_id, delivered, answer) values (%s, false, %s)",
        [row["id"], failure.answer[:1000]],
    )


def _all_wait(connection: Connection, message: Message, failure: NotDelivered) -> None:
    """Who says when to come back says it to all messages of that connection."""
    if failure.retry_after_s:
        connection.execute(
            "update outbox set next_attempt_at ="
            " greatest(next_attempt_at, clock_timestamp() + make_interval(secs => %s)) where id in ("
            " select id from outbox where state = 'pending' and channel = %s and payload ->> 'conn_id' = %s"
            " for update skip locked)",
            [failure.retry_after_s, message.channel, message.payload.get("conn_id")],
        )


def _begin_thread(connection: Connection, message: Message, thread: Thread) -> None:
    connection.execute(
        "insert into threads (key, channel, channel_id, ts) values (%s, %s, %s, %s)"
        " on conflict (key, channel) do update set channel_id = excluded.channel_id, ts = excluded.ts,"
        " at = clock_timestamp()",
        [message.key, message.payload["message"]["channel"], thread.channel_id, thread.ts],
    )
