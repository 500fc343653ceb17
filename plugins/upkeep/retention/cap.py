"""How far the standing yes of the platform file reaches: a share of the table, and a multiple of what is usual."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from statistics import median

from upkeep.ledger import Ledger
from upkeep.platforms.database import Deletion
from upkeep.retention.items import Item

FEW_ROWS = 1000
"""So little is never "more than usual"."""

LEAST_RUNS = 3
"""Before so many runs have deleted something, nobody knows what is usual."""

METRIC, SECONDS = "retention_deleted_rows", "retention_seconds"


def judge(items: Sequence[Item], settings: Deletion, ledger: Ledger, platform: str, now: datetime) -> None:
    """Fill in ``beyond`` and ``seconds``; partitions of one table are judged together."""
    for rule in dict.fromkeys(item.rule for item in items):
        parts = [item for item in items if item.rule == rule]
        due, rows = sum(item.due for item in parts), sum(item.rows for item in parts)
        history = _history(ledger, platform, METRIC, rule, now)
        beyond = ""
        if due > settings.most_share * rows:
            beyond = f"{due:,} of {rows:,} rows are due ({due / rows:.0%}), allowed are {settings.most_share:.0%}"
        elif (usual := _usual(history, now)) is not None and due > max(FEW_ROWS, settings.most_times_usual * usual):
            beyond = f"{due:,} rows are due, usual are {usual:,.0f} (allowed {settings.most_times_usual:g} times that)"
        took = _history(ledger, platform, SECONDS, rule, now)
        deleted = sum(value for _, value in history[-6:])
        for item in parts:
            item.beyond = beyond
            if deleted and took:
                item.seconds = round(sum(value for _, value in took[-6:]) / deleted * item.due, 1)


def _history(ledger: Ledger, platform: str, metric: str, rule: str, now: datetime) -> list[tuple[datetime, float]]:
    rows = ledger.rows(
        "select at, value from samples where platform = %s and metric = %s and object = %s and value > 0"
        " and at > %s and at <= %s order by at",
        [platform, metric, rule, now - timedelta(days=800), now],
    )
    return [(row["at"], row["value"]) for row in rows]


def _usual(history: Sequence[tuple[datetime, float]], now: datetime) -> float | None:
    """The median of the last twelve runs, in proportion when the last is longer ago than they were apart."""
    last = history[-12:]
    if len(last) < LEAST_RUNS:
        return None
    apart = median((b[0] - a[0]).total_seconds() for a, b in itertools.pairwise(last))
    waited = (now.astimezone(UTC) - last[-1][0]).total_seconds()
    return median(value for _, value in last) * max(1.0, waited / max(apart, 1.0))


def remember(ledger: Ledger, platform: str, rule: str, rows: int, seconds: float, now: datetime) -> None:
    """Keep what was deleted and how long it took, for ``judge``."""
    ledger.sample(platform, {(METRIC, rule): rows, (SECONDS, rule): seconds}, now)
