"""
Which indexes to rebuild, in which order: the most bytes freed per second first.

A cheap pass over the catalog finds suspects, a look into a few hundred pages confirms them. An index that is seen for
the first time and cannot be looked into is never rebuilt: it only gets a baseline.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

import psycopg
from psycopg import sql

from upkeep.errors import SettingsError
from upkeep.platforms.database import Reindex
from upkeep.postgres.reindex.bloat import Looker, Measured, page_math
from upkeep.postgres.reindex.history import Baseline, Speed, work
from upkeep.postgres.session import Connection, query, statement_timeout

CHEAP_PASS = timedelta(seconds=60)
"""For the question about all indexes; 30,000 take well below a second."""

LOOK = timedelta(minutes=10)
"""For looking into suspects; each takes about 10 ms. What is not reached is a suspect again next time."""

LEAST_SHARE_OF_DATABASE = 0.001
"""Less than this share of the database is no gain worth a rebuild. One in a hundred, as often advised, leaves most of
the bloat where it is spread over many indexes: 78 of 115 MB in a database of 12 tables with 84 indexes (measured)."""

DISAPPOINTED_UNTIL = 1.5
"""An index whose last rebuild freed less than half of what was expected is left alone until it has grown this much."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One index that is worth a rebuild."""

    index: str
    """``schema.name``, for people."""

    schema: str
    name: str
    oid: int
    table: str
    table_schema: str
    table_name: str
    method: str
    expression: bool
    bytes: int
    rows: float
    bloat: float
    """Share that a rebuild frees, 0 to 1."""

    wasted: int
    """… in bytes."""

    by: str
    """How that is known: ``sample``, ``scan``, or ``ratio`` (bytes per row against its own best)."""

    work_bytes: int
    """What the rebuild goes through."""

    seconds: float
    """Predicted."""

    value: float
    """Bytes freed per second, up to twice as much where most scans go."""

    fits: bool
    """Whether the window had room for it when it was chosen, after all that are worth more."""

    def as_dict(self) -> dict[str, Any]:
        """JSON values only, as XCom and the ledger's plan want them."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What looking at all indexes came to."""

    candidates: tuple[Candidate, ...]
    forbidden: tuple[Candidate, ...]
    """Worth a rebuild, and not allowed to this role; ``owners`` has their owners."""

    owners: tuple[str, ...]
    refilled: Mapping[str, float]
    """Indexes that are bloated again, and how many days after their last rebuild."""

    disappointing: tuple[str, ...]
    """Indexes whose last rebuild freed less than half of what was expected."""

    unconfirmed: tuple[str, ...]
    """Suspects that could not be looked into and have no history: rebuilt by nobody, baseline kept."""

    looked: int
    why_not: str
    """Why pages cannot be sampled here; empty when they can."""

    baselines: Mapping[str, Baseline]
    """To be remembered."""


def guard(connection: Connection) -> None:
    """:raises SettingsError: this server's version has a bug in the way, is too old, or is a standby."""
    version = connection.info.server_version
    if version < 130000:
        raise SettingsError(
            f"PostgreSQL {version // 10000} is older than 13",
            hint="upgrade it: its last minor release was years ago.",
        )
    if 140000 <= version < 140004:
        raise SettingsError(
            f"PostgreSQL 14.{version % 100} corrupts indexes that are rebuilt concurrently (bug 17485)",
            hint="upgrade to 14.4 or newer, then REINDEX whatever was rebuilt before.",
        )
    row = connection.execute("select pg_is_in_recovery() as standby").fetchone()
    if row and row["standby"]:
        raise SettingsError(
            "this server is a standby; REINDEX runs on the primary",
            hint="let the connection name the primary, or several hosts with `target_session_attrs=read-write`.",
        )


def choose(
    connection: Connection,
    settings: Reindex,
    baselines: Mapping[str, Baseline],
    speed: Speed,
    *,
    left: timedelta | None = None,
    look_for: timedelta = LOOK,
    analyze: bool = True,
    now: datetime | None = None,
) -> Choice:
    """
    Look at all indexes, into the suspects, and put those worth a rebuild in order.

    :param left: of the window; decides what ``fits``.
    :param look_for: at most this long into suspects, the largest first.
    :param analyze: count rows anew where only the ratio of bytes to rows speaks for a rebuild.
    :raises SettingsError: nothing can be rebuilt on this server.
    """
    guard(connection)
    now = now or datetime.now(UTC)
    looker, until = Looker(connection), time.monotonic() + look_for.total_seconds()
    made: dict[str, Baseline] = {}
    worth, sorted_out = [], _SortedOut()
    analyzed: set[str] | None = set() if analyze else None
    for row in sorted(cheap_pass(connection, settings), key=lambda row: -_suspected(row, baselines)):
        index = f"{row['schema']}.{row['name']}"
        known = _same(baselines.get(index), row)
        ratio = row["bytes"] / max(row["rows"], 1)
        if known is None or (known.source == "seen" and ratio < known.best_ratio):
            # Kept in any case: the next look has something to compare with.
            made[index] = replace(known or Baseline(oid=row["oid"], best_ratio=0, source="seen"), best_ratio=ratio)
        if not _enough(_suspected(row, baselines), row, settings):
            continue
        by: str
        if measured := looker.look(row) if time.monotonic() < until else None:
            sorted_out.looked += 1
            made[index] = _learned(known or made[index], row, measured)
            share, by = measured.bloat, measured.by
        elif known is not None:
            row = row if analyzed is None else _counted_again(connection, row, analyzed)
            share, by = 1 - known.best_ratio * max(row["rows"], 0) / max(row["bytes"], 1), "ratio"
        else:
            sorted_out.unconfirmed.append(index)
            continue
        candidate = _candidate(row, share, by, speed)
        bloated = share >= settings.bloat and _enough(candidate.wasted, row, settings)
        if bloated and not sorted_out.takes(candidate, row, known, settings, now):
            worth.append(candidate)
    worth.sort(key=lambda candidate: -candidate.value)
    return Choice(
        candidates=packed(worth[: settings.most_indexes], left),
        forbidden=tuple(sorted_out.forbidden),
        owners=tuple(sorted(sorted_out.owners)),
        refilled=sorted_out.refilled,
        disappointing=tuple(sorted_out.disappointing),
        unconfirmed=tuple(sorted_out.unconfirmed),
        looked=sorted_out.looked,
        why_not=looker.why_not,
        baselines=made,
    )


@dataclass
class _SortedOut:
    """What is bloated, or may be, and is not rebuilt."""

    forbidden: list[Candidate] = field(default_factory=list)
    owners: set[str] = field(default_factory=set)
    refilled: dict[str, float] = field(default_factory=dict)
    disappointing: list[str] = field(default_factory=list)
    unconfirmed: list[str] = field(default_factory=list)
    looked: int = 0

    def takes(
        self, one: Candidate, row: Mapping[str, Any], known: Baseline | None, settings: Reindex, now: datetime
    ) -> bool:
        """Whether this bloated index is one that is not to be rebuilt now."""
        if known and known.rebuilt_at and now - known.rebuilt_at < settings.not_again:
            self.refilled[one.index] = (now - known.rebuilt_at).total_seconds() / 86400
        elif known and _disappointed(known, row):
            self.disappointing.append(one.index)
        elif not row["allowed"]:
            self.forbidden.append(one)
            self.owners.add(row["owner"])
        else:
            return False
        return True


def cheap_pass(connection: Connection, settings: Reindex) -> list[dict[str, Any]]:
    """All indexes that are large enough and that nobody wants skipped; see ``reindex/indexes.sql``."""
    with statement_timeout(connection, CHEAP_PASS):
        rows = connection.execute(
            query("reindex/indexes"), {"least_bytes": settings.wasted, "schema": None, "name": None}
        ).fetchall()
    return [
        row
        for row in rows
        if not any(fnmatchcase(f"{row['schema']}.{row['name']}", pattern) for pattern in settings.skip)
    ]


def packed(candidates: Sequence[Candidate], left: timedelta | None) -> tuple[Candidate, ...]:
    """Mark what fits into four fifths of the window, taking the best first and letting smaller ones pass."""
    room = left.total_seconds() * MARGIN if left is not None else float("inf")
    marked = []
    for candidate in candidates:
        fits = candidate.seconds <= room
        room -= candidate.seconds if fits else 0
        marked.append(replace(candidate, fits=fits))
    return tuple(marked)


MARGIN = 0.8
"""Share of the time left that is given away: predictions are only predictions."""


# -- judging one index ---------------------------------------------------------------------------------


def _same(known: Baseline | None, row: Mapping[str, Any]) -> Baseline | None:
    """What is known, if it is of this very index: somebody may have made another one under its name."""
    return known if known and known.oid == row["oid"] else None


def _suspected(row: Mapping[str, Any], baselines: Mapping[str, Baseline]) -> int:
    """Bytes that may be wasted, by what the catalog says: against its own best, else by page math."""
    known = _same(baselines.get(f"{row['schema']}.{row['name']}"), row)
    if known is None or (known.source == "seen" and row["method"] == "btree"):
        return page_math(row["method"], row["bytes"], row["rows"], row["fillfactor"])
    return max(0, int(row["bytes"] - known.best_ratio * max(row["rows"], 0)))


def _enough(wasted: float, row: Mapping[str, Any], settings: Reindex) -> bool:
    least = max(int(settings.wasted), LEAST_SHARE_OF_DATABASE * row["database_bytes"])
    return bool(wasted >= least and wasted >= settings.bloat * row["bytes"] * 0.9)


def _learned(known: Baseline, row: Mapping[str, Any], measured: Measured) -> Baseline:
    """What it could be, from what it is: also upwards, when its rows have become longer."""
    ratio = row["bytes"] * (1 - measured.bloat) / max(row["rows"], 1)
    return replace(known, best_ratio=ratio, source=measured.by)


def _disappointed(known: Baseline, row: Mapping[str, Any]) -> bool:
    if not known.estimated_bytes or known.freed_bytes is None or known.bytes_after is None:
        return False
    return known.freed_bytes < known.estimated_bytes / 2 and row["bytes"] < DISAPPOINTED_UNTIL * known.bytes_after


def _counted_again(connection: Connection, row: dict[str, Any], analyzed: set[str]) -> dict[str, Any]:
    """The same index after ANALYZE of its table: old counts may have made it a suspect."""
    table = f"{row['table_schema']}.{row['table_name']}"
    try:
        if table not in analyzed:
            analyzed.add(table)
            name = sql.Identifier(row["table_schema"], row["table_name"])
            with statement_timeout(connection, timedelta(minutes=5)):
                connection.execute(sql.SQL("analyze (skip_locked) {}").format(name))
        again = connection.execute(
            query("reindex/indexes"), {"least_bytes": 0, "schema": row["schema"], "name": row["name"]}
        ).fetchone()
    except (psycopg.errors.QueryCanceled, psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable):
        return row
    return again or row


def _candidate(row: Mapping[str, Any], share: float, by: str, speed: Speed) -> Candidate:
    index = f"{row['schema']}.{row['name']}"
    wasted = int(share * row["bytes"])
    work_bytes = int(work(row["table_bytes"], row["bytes"] - wasted))
    seconds = speed.seconds(index, work_bytes)
    return Candidate(
        index=index,
        schema=row["schema"],
        name=row["name"],
        oid=row["oid"],
        table=f"{row['table_schema']}.{row['table_name']}",
        table_schema=row["table_schema"],
        table_name=row["table_name"],
        method=row["method"],
        expression=row["expression"],
        bytes=row["bytes"],
        rows=row["rows"],
        bloat=round(share, 4),
        wasted=wasted,
        by=by,
        work_bytes=work_bytes,
        seconds=round(seconds, 2),
        value=round(wasted * (1 + row["scan_share"]) / seconds),
        fits=True,
    )
