"""REINDEX INDEX CONCURRENTLY of one index: only when it will not be in vain, and with nothing left behind."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import psycopg
from psycopg import sql

from upkeep.platforms.database import Reindex
from upkeep.postgres.reindex import leftovers
from upkeep.postgres.reindex.choose import MARGIN, guard
from upkeep.postgres.reindex.preflight import DiskUnknown, Free, in_the_way, room
from upkeep.postgres.session import Connection, connect, milliseconds, query, statement_timeout

State = Literal[
    "done", "not needed", "in the way", "no room", "stopped", "refused", "locked", "cancelled", "corrupt", "gone"
]

LOCK = timedelta(minutes=10)
"""While it waits for a lock or a transaction, only VACUUM and DDL of that table wait with it; a short time-out would
throw whole builds away."""

PAUSES_S = (0.0, 10.0, 30.0, 60.0)
"""Before each try. What failed after its build had begun is not tried again: that would be a second build in vain."""

WATCH_EVERY_S = 0.5
DISK_EVERY_S = 15.0

BEFORE_THE_BUILD = ("", "initializing", "waiting for writers before build")


def rebuild(
    conninfo: str,
    owner: str,
    item: Mapping[str, Any],
    settings: Reindex,
    *,
    seconds: float,
    go: Callable[[], str],
    free: Free,
    ends: datetime | None = None,
    pauses_s: Sequence[float] = PAUSES_S,
) -> dict[str, Any]:
    """
    Rebuild one index, if it is still the one that was chosen and nothing speaks against it now.

    :param conninfo: of the maintenance role. :param owner: of the owner role, which drops what a failed build leaves.
    :param item: as ``Candidate.as_dict`` gives it. :param seconds: how long it will take, predicted.
    :param go: the brake; ``""`` lets it begin, anything else is the reason why it must not.
    :param free: bytes left on the database's disk.
    :param ends: when the window closes: nothing is begun that would not fit, and what runs is cancelled.
    :returns: ``state`` with its ``reason``; ``bytes_before``, ``bytes_after``, ``rows``, ``oid``, ``seconds``,
        ``work_bytes``, ``wal_bytes`` of the whole server meanwhile; ``built``: whether a build was begun;
        ``leftover``: what is left behind and could not be dropped.
    :raises psycopg.OperationalError: the server cannot be reached, or went away.
    """
    with connect(conninfo, settings={"max_parallel_maintenance_workers": str(settings.workers)}) as connection:
        guard(connection)
        try:
            # Of an earlier try of this task, which died with its worker or its server.
            _clean(connection, owner, item)
            before = _state(connection, item)
        except psycopg.errors.LockNotAvailable:
            return {"state": "locked", "reason": "somebody holds a lock on the index", "built": False}
        if before is None:
            return {"state": "gone", "reason": "the index was dropped meanwhile", "built": False}
        if before["oid"] != item["oid"]:
            return {"state": "not needed", "reason": "it was rebuilt meanwhile", "built": False}
        result: dict[str, Any] = {}
        for pause_s in pauses_s:
            if pause_s and ends and datetime.now(UTC) + timedelta(seconds=pause_s) > ends:
                break
            time.sleep(pause_s)
            if no := _speaks_against(connection, item, settings, seconds, go, free, ends):
                result = {**no, "built": False}
            else:
                result = _try(connection, conninfo, item, settings, free, ends)
                if result["state"] != "done":
                    result |= _clean(connection, owner, item)
            if result["state"] != "locked" or result["built"]:
                break
        after = _state(connection, item)
        if after is None or not after["valid"]:
            return {**result, "state": "gone", "reason": "the index was dropped meanwhile"}
        if after["oid"] == before["oid"]:
            return result
        # Also when it failed after the swap: only the old index was still to be dropped then.
        if item["expression"]:
            _analyze(connection, item)
        wal = connection.execute(
            "select pg_wal_lsn_diff(%s::pg_lsn, %s::pg_lsn)::bigint as bytes", [after["lsn"], before["lsn"]]
        ).fetchone()
        return {
            **result,
            "state": "done",
            "bytes_before": before["bytes"],
            "bytes_after": after["bytes"],
            "rows": after["rows"],
            "oid": after["oid"],
            "work_bytes": item["work_bytes"],
            "wal_bytes": wal["bytes"] if wal else None,
        }


def _speaks_against(
    connection: Connection,
    item: Mapping[str, Any],
    settings: Reindex,
    seconds: float,
    go: Callable[[], str],
    free: Free,
    ends: datetime | None,
) -> dict[str, Any] | None:
    """What must not be so, dearest questions last; asked anew before every try."""
    if stop := go():
        return {"state": "stopped", "reason": stop}
    if lack := room(free, settings, item["bytes"] - item["wasted"])[0]:
        return {"state": "no room", "reason": lack}
    if late := _late(seconds, ends):
        return {"state": "stopped", "reason": late}
    trouble, who = in_the_way(connection, item["table_schema"], item["table_name"], settings, ends)
    if trouble:
        return {"state": trouble, "reason": who}
    # Waiting took time.
    if late := _late(seconds, ends):
        return {"state": "stopped", "reason": late}
    return None


def _late(seconds: float, ends: datetime | None) -> str:
    if ends is None:
        return ""
    left = (ends - datetime.now(UTC)).total_seconds()
    if left <= 0:
        return "the maintenance window is over"
    if seconds > left * MARGIN:
        return f"it would take about {seconds:,.0f} s, and {left:,.0f} s are left of the window"
    return ""


# -- one try -------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """What the watchdog saw."""

    phase: str = ""
    """As pg_stat_progress_create_index last said."""

    waited_for: str = ""
    """Who was waited for last."""

    cancelled: str = ""
    """Why it cancelled the rebuild; empty when it did not."""

    over: threading.Event = field(default_factory=threading.Event)


def _try(
    connection: Connection,
    conninfo: str,
    item: Mapping[str, Any],
    settings: Reindex,
    free: Free,
    ends: datetime | None,
) -> dict[str, Any]:
    left = ends - datetime.now(UTC) if ends else timedelta(days=1)
    statement = sql.SQL("reindex index concurrently {}").format(sql.Identifier(item["schema"], item["name"]))
    began = time.monotonic()
    state: State = "done"
    reason = ""
    with _watched(connection, conninfo, item, settings, free) as watch:
        try:
            with statement_timeout(connection, left), _lock_timeout(connection, min(LOCK, left)):
                connection.execute(statement)
        except psycopg.errors.LockNotAvailable:
            state = "locked"
            reason = f"gave up waiting after {time.monotonic() - began:,.0f} s"
        except psycopg.errors.DeadlockDetected:
            state, reason = "locked", "PostgreSQL ended a deadlock that it was part of"
        except psycopg.errors.QueryCanceled:
            state = "cancelled"
            reason = watch.cancelled or (
                "the maintenance window is over" if ends and datetime.now(UTC) >= ends else "somebody cancelled it"
            )
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported) as no:
            state, reason = "refused", str(no.diag.message_primary)
        except psycopg.errors.UndefinedTable:
            state, reason = "gone", "the index was dropped meanwhile"
        except (psycopg.errors.UniqueViolation, psycopg.errors.DataCorrupted, psycopg.errors.IndexCorrupted) as no:
            # Building it anew reads what reading the old one passed over.
            state, reason = "corrupt", f"{no.diag.message_primary} {no.diag.message_detail or ''}".strip()
        except psycopg.errors.DiskFull as no:
            state, reason = "cancelled", str(no.diag.message_primary)
        except psycopg.Error:
            raise
        except BaseException:
            # Whoever ends this task ends its REINDEX too; the next run drops what that leaves.
            with contextlib.suppress(psycopg.Error):
                connection.cancel_safe(timeout=2)
            raise
    if state in ("locked", "cancelled") and watch.waited_for:
        reason = f"{reason}; {watch.phase}: {watch.waited_for}"
    return {
        "state": state,
        "reason": reason,
        "statement": statement.as_string(connection),
        "seconds": round(time.monotonic() - began, 3),
        "built": state == "done" or watch.phase not in BEFORE_THE_BUILD,
    }


@contextmanager
def _watched(
    connection: Connection, conninfo: str, item: Mapping[str, Any], settings: Reindex, free: Free
) -> Iterator[Watch]:
    """A second session that looks on, and cancels the rebuild when the reserve of disk is being used up."""
    watch = Watch()
    thread = threading.Thread(
        target=_look_on, args=(watch, connection, conninfo, item, settings, free), name="reindex watchdog", daemon=True
    )
    thread.start()
    try:
        yield watch
    finally:
        watch.over.set()
        thread.join(timeout=5)


def _look_on(
    watch: Watch, connection: Connection, conninfo: str, item: Mapping[str, Any], settings: Reindex, free: Free
) -> None:
    reserve = max(settings.disk_headroom - 1, 0.1) * (item["bytes"] - item["wasted"])
    pid = connection.info.backend_pid
    disk_at = time.monotonic() + DISK_EVERY_S
    # Nobody looks on any more when the server is gone; the rebuild's own session says so.
    with contextlib.suppress(psycopg.Error), connect(conninfo) as own:
        while not watch.over.wait(WATCH_EVERY_S if watch.phase else WATCH_EVERY_S / 10):
            if row := own.execute(query("reindex/progress"), {"pid": pid}).fetchone():
                watch.phase = row["phase"]
                watch.waited_for = f"pid {row['waits_for']} {row['who']}" if row["waits_for"] else ""
            if time.monotonic() >= disk_at:
                disk_at = time.monotonic() + DISK_EVERY_S
                with contextlib.suppress(DiskUnknown):
                    if (left := free()) < reserve:
                        watch.cancelled = f"only {left / 1024**2:,.0f} MiB of disk are left"
                        connection.cancel_safe(timeout=5)


# -- afterwards ----------------------------------------------------------------------------------------


def _clean(connection: Connection, owner: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """Drop at once what a failed build left; what cannot be dropped now is named, and is the next run's first work."""
    left = {}
    for one in leftovers.find(connection, item["table"]):
        if one.of_index == item["name"]:
            dropped = leftovers.drop(owner, one.as_dict(), pauses_s=(0.0,))
            if dropped["state"] not in ("done", "gone"):
                left = {"leftover": one.index, "leftover_reason": dropped["reason"]}
    return left


def _analyze(connection: Connection, item: Mapping[str, Any]) -> None:
    """Statistics of an expression belong to its index; servers before 12.5 and 13.1 forget them with the old one."""
    known = connection.execute(
        "select from pg_stats where schemaname = %s and tablename = %s limit 1", [item["schema"], item["name"]]
    ).fetchone()
    if known is not None:
        return
    name = sql.Identifier(item["table_schema"], item["table_name"])
    with (
        contextlib.suppress(psycopg.errors.QueryCanceled, psycopg.errors.InsufficientPrivilege),
        statement_timeout(connection, timedelta(minutes=10)),
    ):
        connection.execute(sql.SQL("analyze (skip_locked) {}").format(name))


def _state(connection: Connection, item: Mapping[str, Any]) -> dict[str, Any] | None:
    return connection.execute(query("reindex/state"), {"schema": item["schema"], "name": item["name"]}).fetchone()


@contextmanager
def _lock_timeout(connection: Connection, most: timedelta) -> Iterator[None]:
    row = connection.execute("select current_setting('lock_timeout') as usual").fetchone()
    connection.execute("select set_config('lock_timeout', %s, false)", [str(milliseconds(most))])
    try:
        yield
    finally:
        with contextlib.suppress(psycopg.OperationalError):
            connection.execute("select set_config('lock_timeout', %s, false)", [row["usual"] if row else "2s"])
