"""
The canary: a row every 100 ms while a drill runs, and a log of its own of what was acknowledged.

What the database later holds of the acknowledged rows is the loss; the gap in the log is the time it was away.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from upkeep.errors import UpkeepError
from upkeep.postgres.session import Connection, connect

IMPATIENT: dict[str, str | int] = {
    # A host that vanishes sends no reset: the kernel gives up on it after this.
    "tcp_user_timeout": 2000,
    "keepalives_idle": 1,
    "keepalives_interval": 1,
    "keepalives_count": 2,
    "connect_timeout": 2,
    "target_session_attrs": "read-write",
}

INSERT = "insert into upkeep.drill_canary (drill, number, at) values (%s, %s, %s)"


class CanaryError(UpkeepError):
    """The canary cannot write."""


@dataclass(frozen=True)
class Beat:
    """One try to write a row."""

    number: int
    sent: datetime
    sent_s: float
    """By the monotonic clock, as ``ended_s``."""

    ended_s: float
    acknowledged: bool
    said: str = ""


@dataclass(frozen=True)
class Loss:
    """What the canary's log and the database make of a failure."""

    acknowledged: int
    """Rows that the server said were committed."""

    lost: int
    """Of these, not there afterwards."""

    unsure: int
    """Rows that are there although nobody was told so."""

    failed_s: float
    """When it failed, by the monotonic clock."""

    window_s: float
    """From the newest row before the loss that is there to the failure, 0 when nothing was lost."""

    away_s: float | None
    """From the failure to the first row acknowledged afterwards; None: none was."""

    first_lost: datetime | None = None
    last_lost: datetime | None = None


@dataclass
class Canary:
    """
    Writes until it is stopped; use it in a ``with``.

    :param conninfo: all servers, as the maintenance role; it finds the primary by itself.
    """

    conninfo: str
    drill: int
    every_s: float = 0.1
    log: list[Beat] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _connection: Connection | None = None
    _warned: list[str] = field(default_factory=list)

    def __enter__(self) -> Canary:
        self._thread = threading.Thread(target=self._run, name="canary", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def stop(self) -> None:
        """Write no more. A row that waits for a standby is given up: it was never acknowledged."""
        self._stopping.set()
        if self._thread is None:
            return
        self._thread.join(self.every_s + 3)
        if self._thread.is_alive() and (hanging := self._connection) is not None:
            hanging.cancel_safe(timeout=2)
            self._thread.join(5)

    def wait(self, true: Callable[[Sequence[Beat]], bool], within_s: float, what: str) -> None:
        """:raises CanaryError: not within so many seconds."""
        until = time.monotonic() + within_s
        while not true(list(self.log)):
            if time.monotonic() > until:
                raise CanaryError(
                    f"the canary waited {within_s:g} s for {what}; {self._last()}",
                    hint="run include/sql/postgres/roles.sql with -c upkeep.drills=on; look at the primary's log.",
                )
            time.sleep(min(0.05, self.every_s))

    def first_after(self, moment_s: float) -> Beat | None:
        """The first row acknowledged that was sent, or was still waiting, after a moment."""
        return next((beat for beat in list(self.log) if beat.acknowledged and beat.ended_s > moment_s), None)

    def _last(self) -> str:
        said = next((beat.said for beat in reversed(self.log) if not beat.acknowledged), "")
        return f"the last refusal: {said}" if said else "nothing was refused"

    def _run(self) -> None:
        number = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            number += 1
            self._beat(number)
            self._stopping.wait(max(0.0, self.every_s - (time.monotonic() - began)))
        if self._connection is not None:
            self._connection.close()

    def _beat(self, number: int) -> None:
        sent, sent_s = datetime.now(UTC), time.monotonic()
        said = ""
        try:
            connection = self._connected()
            self._warned.clear()
            connection.execute(INSERT, [self.drill, number, sent])
            # "The transaction has already committed locally, but might not have been replicated": no acknowledgement.
            said = next(iter(self._warned), "")
        except (psycopg.Error, UpkeepError) as refused:
            said = " ".join(str(refused).split())[:200] or type(refused).__name__
            if self._connection is not None:
                self._connection.close()
                self._connection = None
        self.log.append(Beat(number, sent, sent_s, time.monotonic(), not said, said))

    def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                make_conninfo(self.conninfo, **IMPATIENT, application_name="upkeep drill canary"),
                autocommit=True,
                options="-c statement_timeout=0 -c lock_timeout=2s",
            )
            self._connection.add_notice_handler(lambda told: self._warned.append(str(told.message_primary)))
        return self._connection


def count(conninfo: str, drill: int) -> set[int]:
    """Rows that the database has now."""
    with connect(conninfo) as connection:
        rows = connection.execute("select number from upkeep.drill_canary where drill = %s", [drill]).fetchall()
    return {row["number"] for row in rows}


def loss(log: Sequence[Beat], there: set[int], failed_s: float, gone_s: float) -> Loss:
    """
    What was lost.

    :param failed_s: when the primary was about to be made to fail, by the monotonic clock; what it still acknowledged
        until it was gone moves the failure on. :param gone_s: when it surely was.
    """
    acknowledged = [beat for beat in log if beat.acknowledged]
    lost = [beat for beat in acknowledged if beat.number not in there]
    failed_s = max([failed_s, *(beat.ended_s for beat in acknowledged if beat.ended_s <= gone_s)])
    after = next((beat for beat in acknowledged if beat.ended_s > gone_s and beat.number in there), None)
    window = 0.0
    if lost:
        kept = [beat.sent_s for beat in acknowledged if beat.number in there and beat.sent_s < lost[0].sent_s]
        window = max(lost[-1].ended_s, failed_s) - (kept[-1] if kept else log[0].sent_s)
    return Loss(
        acknowledged=len(acknowledged),
        lost=len(lost),
        unsure=sum(beat.number in there for beat in log if not beat.acknowledged),
        failed_s=failed_s,
        window_s=round(window, 3),
        away_s=round(after.ended_s - failed_s, 3) if after else None,
        first_lost=lost[0].sent if lost else None,
        last_lost=lost[-1].sent if lost else None,
    )


def sweep(conninfo: str, drill: int) -> int:
    """Remove a drill's rows; how many there were."""
    with connect(conninfo) as connection:
        return connection.execute("delete from upkeep.drill_canary where drill = %s", [drill]).rowcount
