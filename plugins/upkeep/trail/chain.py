"""Sealing what is over, and looking whether all that was sealed is still there as it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from upkeep.ledger import Ledger
from upkeep.ledger.run import Connection
from upkeep.trail.facts import SOURCES, Facts

MOST_AT_ONCE = 5000
"""Facts of one source in one turn; a minute later comes the next."""

LATE = timedelta(hours=1)
"""A transaction that took so long is still found; what is older and not sealed was put there afterwards."""

MOST_TOLD = 20
"""Breaks that are named; the rest is counted."""

LOCK = "select pg_try_advisory_xact_lock(hashtextextended('upkeep.trail', 0)) as mine"


@dataclass(frozen=True)
class Head:
    """The newest row of the chain: whoever keeps it elsewhere can tell whether all before it is as it was."""

    number: int
    at: datetime
    hash: str


@dataclass(frozen=True)
class Seen:
    """What became of a look at the trail."""

    breaks: tuple[str, ...]
    """What is not as it was sealed, a sentence each."""

    facts: int
    """Rows that were looked at."""

    since: datetime | None
    head: Head | None


def seal(ledger: Ledger) -> int:
    """
    Append every fact that is over and not in the chain yet; how many.

    Nothing when somebody else does so at this moment. :raises LedgerError: the ledger is down.
    """
    sealed = 0
    with ledger.transaction() as connection:
        mine = connection.execute(LOCK).fetchone()
        if not (mine and mine["mine"]):
            return 0
        connection.execute("set local timezone = 'UTC'")
        last = head(connection)
        for name, facts in SOURCES.items():
            rows, mark = _new(connection, name, facts)
            last = _append(connection, name, rows, last)
            _set_mark(connection, name, mark)
            sealed += len(rows)
    return sealed


def head(connection: Connection) -> Head | None:
    row = connection.execute("select number, at, hash from trail order by number desc limit 1").fetchone()
    return Head(row["number"], row["at"], row["hash"]) if row else None


def look(ledger: Ledger, *, since: int = 0) -> Seen:
    """
    Compare the chain with itself and with the facts.

    :param since: number of a row whose witness agrees; what is before it is looked at only where it is linked.
    :raises LedgerError: the ledger is down.
    """
    with ledger.transaction() as connection:
        # One state of everything, and one spelling of moments.
        connection.execute("set transaction isolation level repeatable read, read only")
        connection.execute("set local timezone = 'UTC'")
        breaks = list(_broken_links(connection, since))
        for name, facts in SOURCES.items():
            breaks += _changed(connection, name, facts, since)
            breaks += _unsealed(connection, name, facts)
        count = connection.execute(
            "select count(*) as facts, min(at) as since from trail where number > %s", [since]
        ).fetchone()
        assert count is not None
        return Seen(tuple(breaks), count["facts"], count["since"], head(connection))


def hash_at(ledger: Ledger, number: int) -> str | None:
    """The hash of one row; None where there is none."""
    rows = ledger.rows("select hash from trail where number = %s", [number])
    return str(rows[0]["hash"]) if rows else None


# -- sealing -------------------------------------------------------------------------------------------------


def _new(connection: Connection, name: str, facts: Facts) -> tuple[list[dict[str, Any]], datetime | None]:
    """What is not sealed yet, the oldest first; and up to when all is."""
    mark = _mark(connection, name)
    rows = connection.execute(
        f"select f.* from ({facts.query}) as f where (%(since)s::timestamptz is null or f.at > %(since)s)"
        " and not exists (select from trail as t where t.source = %(source)s and t.id = f.id and t.version = f.version)"
        " order by f.at, f.id limit %(most)s",
        {"since": mark - LATE if mark else None, "source": name, "most": MOST_AT_ONCE},
    ).fetchall()
    return rows, rows[-1]["at"] if rows else mark


def _append(connection: Connection, name: str, rows: list[dict[str, Any]], last: Head | None) -> Head | None:
    number, before = (last.number, last.hash) if last else (0, "")
    # Of the ledger's clock, which all its other moments are of.
    now = connection.execute("select clock_timestamp() as now").fetchone()
    assert now is not None
    at = now["now"]
    made = []
    for row in rows:
        number += 1
        before = _hash(before, number, at, name, row["id"], row["version"], row["digest"])
        made.append((number, at, name, row["id"], row["version"], row["digest"], before))
    if not made:
        return last
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into trail (number, at, source, id, version, digest, hash) values (%s, %s, %s, %s, %s, %s, %s)",
            made,
        )
    return Head(number, at, before)


def _hash(before: str, number: int, at: datetime, *content: str) -> str:
    moment = at.astimezone(UTC).isoformat(timespec="microseconds")
    return hashlib.sha256(json.dumps([before, number, moment, *content]).encode()).hexdigest()


def _mark(connection: Connection, name: str) -> datetime | None:
    row = connection.execute("select at from watermarks where name = %s", [f"trail/{name}"]).fetchone()
    return row["at"] if row else None


def _set_mark(connection: Connection, name: str, at: datetime | None) -> None:
    if at is not None:
        connection.execute(
            "insert into watermarks (name, at) values (%s, %s)"
            " on conflict (name) do update set at = greatest(watermarks.at, excluded.at)",
            [f"trail/{name}", at],
        )


# -- looking -------------------------------------------------------------------------------------------------


def _broken_links(connection: Connection, since: int) -> Iterator[str]:
    before, expected = "", 1
    if since:
        row = connection.execute("select hash from trail where number = %s", [since]).fetchone()
        before, expected = (row["hash"] if row else ""), since + 1
    found = 0
    # Millions of rows: read as a stream.
    with connection.cursor(name="trail") as rows:
        rows.itersize = 10_000
        rows.execute("select * from trail where number > %s order by number", [since])
        for row in rows:
            wanted = _hash(before, row["number"], row["at"], row["source"], row["id"], row["version"], row["digest"])
            if row["number"] != expected:
                found += 1
                yield f"rows {expected} to {row['number'] - 1} of the trail are gone"
            elif wanted != row["hash"]:
                found += 1
                yield f"row {row['number']} of the trail is not what was sealed ({row['source']} {row['id']})"
            if found >= MOST_TOLD:
                return
            before, expected = row["hash"], row["number"] + 1


def _changed(connection: Connection, name: str, facts: Facts, since: int) -> Iterator[str]:
    """Facts that are gone, or that say something else than when they were sealed last."""
    rows = connection.execute(
        "select t.number, t.id, t.at, f.id is null as gone from ("
        " select distinct on (id) * from trail where source = %(source)s and number > %(since)s"
        " order by id, number desc) as t"
        f" left join ({facts.query}) as f on f.id = t.id"
        " where f.id is null or (f.version = t.version and f.digest <> t.digest) order by t.number limit %(most)s",
        {"source": name, "since": since, "most": MOST_TOLD},
    ).fetchall()
    for row in rows:
        said = "is gone" if row["gone"] else "says something else now"
        yield f"{name} {row['id']} {said}: it was sealed as row {row['number']} at {row['at']:%Y-%m-%d %H:%M:%S} UTC"


def _unsealed(connection: Connection, name: str, facts: Facts) -> Iterator[str]:
    """Facts that say they are old, and were not there when those of their time were sealed."""
    rows = connection.execute(
        f"select f.id, f.at, f.version from ({facts.query}) as f, watermarks as w"
        " where w.name = %(mark)s and f.at < w.at - %(late)s"
        " and not exists (select from trail as t where t.source = %(source)s and t.id = f.id and t.version = f.version)"
        " order by f.at limit %(most)s",
        {"mark": f"trail/{name}", "late": LATE, "source": name, "most": MOST_TOLD},
    ).fetchall()
    for row in rows:
        at = f"{row['at']:%Y-%m-%d %H:%M:%S} UTC"
        yield f"{name} {row['id']} of {at} was written or changed after its time was sealed"
