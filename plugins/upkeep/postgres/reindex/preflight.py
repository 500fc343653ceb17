"""What must be true before an index is rebuilt, so that nothing is built in vain."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from upkeep.platforms.database import Reindex
from upkeep.postgres.session import Connection, query
from upkeep.report.wording import size

LOOK_EVERY_S = 0.25

LOCKED_S = 1.5

CONFLICTING = (
    "ShareUpdateExclusiveLock", "ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"
)  # fmt: skip
"""Modes that conflict with REINDEX CONCURRENTLY's own lock on the table."""

Free = Callable[[], float]
"""Bytes left on the database's disk. :raises DiskUnknown: nobody knows."""


class DiskUnknown(Exception):
    """Nobody knows how much room the database has; says why."""


def room(free: Free, settings: Reindex, new_bytes: float) -> tuple[str, float]:
    """
    Why there is no room for a new index of ``new_bytes`` and its WAL, or ``""``; and the bytes that are free.
    """
    needed = (settings.disk_headroom + 1) * new_bytes
    try:
        left = free()
    except DiskUnknown as unknown:
        return f"nobody knows whether there is room for it ({size(needed)}): {unknown}", 0.0
    if left < needed:
        return f"{size(left)} of disk are free, {size(needed)} are needed (the new index, its WAL, and some)", left
    return "", left


def in_the_way(
    connection: Connection, schema: str, name: str, settings: Reindex, ends: datetime | None
) -> tuple[Literal["", "locked", "in the way"], str]:
    """
    Who would make REINDEX CONCURRENTLY of an index of this table wait, perhaps after it has built everything.

    Whoever is at work now is waited for, until it has ended or is older than ``settings.old_transaction``: what has
    taken that long will take longer. Transactions that begin meanwhile are not waited for, so this ends. A lock that
    keeps out maintenance itself (DDL, another VACUUM) is waited for as long as any lock: two seconds.

    :returns: ``""`` when nobody is, else what kind of trouble; and who it is and since when.
    """
    may = connection.execute("select pg_has_role('pg_read_all_stats', 'usage') as see").fetchone()
    if not (may and may["see"]):
        # Sessions that cannot be seen are not thereby absent.
        role = connection.info.user
        return "in the way", f"perhaps somebody; {role} may not see other sessions (grant pg_monitor to {role};)"
    question = {"schema": schema, "name": name}
    first: set[str] | None = None
    began = time.monotonic()
    while True:
        rows = connection.execute(query("reindex/in_the_way"), question).fetchall()
        first = first if first is not None else {row["id"] for row in rows}
        rows = [row for row in rows if row["id"] in first]
        for row in rows:
            if row["wraparound"]:
                return "locked", f"{named(row)}; it wards off wraparound, and nobody gets in its way"
            if row["mode"] in CONFLICTING and time.monotonic() - began > LOCKED_S:
                return "locked", named(row)
            if row["seconds"] >= settings.old_transaction.total_seconds() and row["mode"] not in CONFLICTING:
                return "in the way", named(row)
        if not rows:
            return "", ""
        if ends is not None and datetime.now(UTC) >= ends:
            return "in the way", named(rows[0])
        time.sleep(LOOK_EVERY_S)


def named(row: dict[str, Any]) -> str:
    """``pid 4711 (app api, idle in transaction) holds AccessShareLock on its table, for 12 min``."""
    pid = f"pid {row['pid']} " if row["pid"] else ""
    holds = f"holds {row['mode']} on its table" if row["mode"] else "holds an old snapshot of the database"
    return f"{pid}({row['who']}, {row['state']}) {holds}, for {_length(row['seconds'])}"


def _length(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{timedelta(seconds=seconds) / timedelta(minutes=1):.0f} min"
