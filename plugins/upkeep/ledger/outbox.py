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

Channel = Literal["pagerduty", "slack"]


@dataclass(frozen=True, kw_only=True)
class Message:
    """One thing to tell over one channel."""

    key: str
    platform: str
    channel: Channel
    event: Literal["trigger", "resolve"]
    severity: str
    payload: Mapping[str, Any]
    """What the channel's sender needs; JSON values only."""

    spool_id: str | None = None
    """Set for messages that waited in the spool, so that they are taken in once."""


class NotDelivered(Exception):
    """The channel did not confirm."""

    def __init__(self, answer: str, *, permanent: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(answer)
        self.answer = answer
        self.permanent = permanent
        """Trying again cannot help: the message itself was refused."""

        self.retry_after_s = retry_after_s


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
select id, key, platform, channel, event, severity, payload, attempts from outbox as o
where state = 'pending' and next_attempt_at <= clock_timestamp()
    and (%(keys)s::text[] is null or key = any(%(keys)s))
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
    for _ in range(most):
        if time.monotonic() - began > budget_s:
            break
        with ledger.transaction() as connection:
            row = connection.execute(_DUE, {"keys": list(keys) if keys is not None else None}).fetchone()
            if row is None:
                break
            message = Message(
                key=row["key"],
                platform=row["platform"],
                channel=row["channel"],
                event=row["event"],
                severity=row["severity"],
                payload=row["payload"],
            )
            try:
                answer = send(message)
            except NotDelivered as failure:
                counts["refused" if failure.permanent else "put off"] += 1
                _put_off(connection, row, failure)
            else:
                counts["delivered"] += 1
                _delivered(connection, row["id"], answer)
    return counts


def _delivered(connection: Connection, id: int, answer: str) -> None:
    connection.execute(
        "update outbox set state = 'delivered', delivered_at = clock_timestamp(), attempts = attempts + 1"
        " where id = %s",
        [id],
    )
    connection.execute(
        "insert into deliveries (outbox_id, delivered, answer) values (%s, true, %s)", [id, answer[:1000]]
    )


def _put_off(connection: Connection, row: Mapping[str, Any], failure: NotDelivered) -> None:
    # 15 s, 30 s, 1 min … 15 min, unless the channel said when.
    wait_s = failure.retry_after_s or min(15 * 2 ** row["attempts"], 900)
    connection.execute(
        "update outbox set attempts = attempts + 1, state = %s,"
        " next_attempt_at = clock_timestamp() + make_interval(secs => %s) where id = %s",
        ["failed" if failure.permanent else "pending", wait_s, row["id"]],
    )
    connection.execute(
        "insert into deliveries (outbox_id, delivered, answer) values (%s, false, %s)",
        [row["id"], failure.answer[:1000]],
    )
