"""What the health checks have measured all day, as one number: what was enough for 95 % of their looks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from upkeep.capacity.sampling.measured import Measured
from upkeep.ledger import Ledger
from upkeep.settings import ROOT

DAY = timedelta(days=1)

Looks = Mapping[tuple[str, str], Mapping[str, Any]]
"""``{(metric, object): {"p95": …, "mean": …, "looks": …}}``"""

TAKEN = {
    "node_share": ("node_share", "p95", 1.0),
    "request_share": ("request_share", "p95", None),
    "autoscaler_at_most": ("autoscaler_at_most_share", "mean", None),
}
"""Health's metric → the daily one, which number of the day, and what there is of it."""

BUSIEST = {"postgres_connections": "connections", "redis_memory_bytes": "redis_bytes"}
"""Measured once more by the sampler, which knows the limit as well; the day's number replaces the moment's."""


def looks(ledger: Ledger, platform: str, now: datetime) -> Looks:
    """:raises LedgerError: the ledger is down."""
    rows = ledger.rows(
        _text(),
        {"platform": platform, "metrics": [*TAKEN, *BUSIEST], "since": now - DAY, "until": now},
    )
    return {(row["metric"], row["object"]): row for row in rows}


def of_the_day(seen: Looks) -> list[Measured]:
    """What only the health checks measure."""
    return [
        Measured(metric=metric, object=object, value=float(row[number]), most=most)
        for (name, object), row in sorted(seen.items())
        if name in TAKEN
        for metric, number, most in [TAKEN[name]]
    ]


def busiest(measured: Measured, seen: Looks) -> Measured:
    """A night's moment says little of connections: the day's p95, where it is more than what is in use now."""
    for name, metric in BUSIEST.items():
        if measured.metric == metric and (row := seen.get((name, measured.object))):
            value = max(measured.value, float(row["p95"]))
            return Measured(metric=metric, object=measured.object, value=value, most=measured.most)
    return measured


@cache
def _text() -> str:
    return (ROOT / "include" / "sql" / "capacity" / "looks.sql").read_text()
