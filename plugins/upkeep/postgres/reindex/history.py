"""What the ledger remembers of indexes: how small each was once, how fast this server rebuilds, who died half-way."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from upkeep.ledger import Ledger
from upkeep.ledger.jsonb import jsonb

CAPABILITY = "postgres"
VERB = "reindex"
DROP = "drop_leftover"

COLD_START = 50 * 1024**2
"""Bytes of work per second, as long as nothing has been rebuilt here yet."""

OVERHEAD_S = 0.1
"""Of every rebuild, however small: six transactions, and waiting for those of others."""

Source = Literal["rebuild", "sample", "scan", "seen"]


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """One index, as it was at its best."""

    oid: int
    """Another oid under the same name is another index."""

    best_ratio: float
    """Bytes per row when it is free of bloat."""

    source: Source
    """``rebuild`` was measured right after one, ``sample`` and ``scan`` were computed from its pages; ``seen`` is only
    the smallest it was seen with, and may be bloated itself."""

    rebuilt_at: datetime | None = None
    estimated_bytes: int | None = None
    """What its last rebuild was expected to free …"""

    freed_bytes: int | None = None
    """… and what it freed."""

    bytes_after: int | None = None


@dataclass(frozen=True)
class Speed:
    """How fast indexes are rebuilt here."""

    usual: float
    """Bytes of work per second."""

    of: Mapping[str, float]
    """Indexes that were rebuilt before have a speed of their own: texts compare slower than numbers."""

    def seconds(self, index: str, work_bytes: float) -> float:
        """How long a rebuild will take."""
        return OVERHEAD_S + work_bytes / self.of.get(index, self.usual)


def work(table_bytes: float, index_bytes: float) -> float:
    """Bytes that a rebuild goes through: the table twice (build, validate), the new index written and read once."""
    return 2 * (table_bytes + index_bytes)


def baselines(ledger: Ledger, platform: str) -> dict[str, Baseline]:
    """By ``schema.name``."""
    rows = ledger.rows(
        "select index_name, oid, best_ratio, source, rebuilt_at, estimated_bytes, freed_bytes, bytes_after"
        " from index_baselines where platform = %s",
        [platform],
    )
    return {row.pop("index_name"): Baseline(**row) for row in rows}


def keep(ledger: Ledger, platform: str, seen: Mapping[str, Baseline]) -> None:
    """Remember these, in place of what was known of them."""
    with ledger.transaction() as connection, connection.cursor() as cursor:
        cursor.executemany(
            "insert into index_baselines (platform, index_name, oid, best_ratio, source, rebuilt_at, estimated_bytes,"
            " freed_bytes, bytes_after) values (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
            " on conflict (platform, index_name) do update set oid = excluded.oid, best_ratio = excluded.best_ratio,"
            " source = excluded.source, seen_at = clock_timestamp(), rebuilt_at = excluded.rebuilt_at,"
            " estimated_bytes = excluded.estimated_bytes, freed_bytes = excluded.freed_bytes,"
            " bytes_after = excluded.bytes_after",
            [
                (
                    platform, index, one.oid, one.best_ratio, one.source, one.rebuilt_at, one.estimated_bytes,
                    one.freed_bytes, one.bytes_after,
                )
                for index, one in seen.items()
            ],
        )  # fmt: skip


def rebuilt(
    ledger: Ledger, platform: str, index: str, *, oid: int, rows: float, before: int, after: int, estimated: int
) -> None:
    """Remember a rebuild: from now on this is how small the index can be."""
    baseline = Baseline(
        oid=oid,
        best_ratio=after / max(rows, 1),
        source="rebuild",
        rebuilt_at=datetime.now(UTC),
        estimated_bytes=estimated,
        freed_bytes=before - after,
        bytes_after=after,
    )
    keep(ledger, platform, {index: baseline})


def swapped(ledger: Ledger, platform: str, index: str, oid: int) -> None:
    """Remember a rebuild whose end nobody recorded: its old index was found after the swap."""
    known = baselines(ledger, platform).get(index)
    if known is None:
        known = Baseline(oid=oid, best_ratio=0, source="seen")
    keep(ledger, platform, {index: replace(known, oid=oid, rebuilt_at=known.rebuilt_at or datetime.now(UTC))})


def speed(ledger: Ledger, platform: str) -> Speed:
    """Learned from the last rebuilds."""
    rows = ledger.rows(
        "select object, (after ->> 'work_bytes')::float8 / greatest((after ->> 'seconds')::float8, 0.001) as speed"
        " from actions where platform = %s and capability = %s and verb = %s and state = 'done'"
        " and after ? 'work_bytes' and after ? 'seconds' order by id desc limit 100",
        [platform, CAPABILITY, VERB],
    )
    by_index: dict[str, list[float]] = {}
    for row in rows:
        by_index.setdefault(row["object"], []).append(row["speed"])
    usual = statistics.median(row["speed"] for row in rows) if rows else COLD_START
    return Speed(usual, {index: statistics.median(speeds[:5]) for index, speeds in by_index.items()})


def abandon(ledger: Ledger, platform: str, verbs: Iterable[str], found: Mapping[str, Any]) -> list[str]:
    """
    Close the actions that a killed worker has left open, and say on what it was at work.

    Only one task at a time rebuilds on a platform (its pool has one slot), so whoever is open now is dead.

    :param found: what to remember of it; goes into ``after``.
    """
    with ledger.transaction() as connection:
        rows = connection.execute(
            "update actions set state = 'abandoned', ended_at = clock_timestamp(), reason = 'its process died',"
            " after = after || %s where platform = %s and capability = %s and verb = any(%s) and state = 'open'"
            " returning object",
            [jsonb(dict(found)), platform, CAPABILITY, list(verbs)],
        ).fetchall()
    return [row["object"] for row in rows]
