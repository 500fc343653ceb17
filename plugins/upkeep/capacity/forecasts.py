"""Forecasts in the ledger: what was said, and when, with its error in the back-test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np

from upkeep.capacity.catalog import named, used
from upkeep.capacity.forecast import Forecast
from upkeep.capacity.outlook import Outlook
from upkeep.ledger import Ledger, Run
from upkeep.ledger.jsonb import jsonb
from upkeep.settings import ROOT

MILESTONES = (30, 90, 180, 365)
"""Days ahead that people ask about."""

MOST_POINTS = 60
"""Of a path in the ledger; the milestones and the end are always among them."""

COLUMNS = (
    "platform", "dag_id", "run_id", "made_at", "metric", "object", "last_day", "points", "value", "most", "state",
    "said", "method", "error", "horizon", "p10_days", "p50_days", "p90_days", "path", "shifts",
)  # fmt: skip

CURRENT = timedelta(days=40)
"""What the newest run did not forecast, and none before it for so long, is not shown any more."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One forecast as the ledger has it."""

    metric: str
    object: str
    made_at: datetime
    last_day: date
    points: int
    value: float
    most: float | None
    state: str
    said: str
    method: str | None
    error: float | None
    """Mean absolute error in the back-test, in the unit of the series."""

    horizon: int | None
    p10_days: int | None
    p50_days: int | None
    p90_days: int | None
    path: Mapping[str, Sequence[float]]
    """``days`` from ``last_day``, and ``p10``, ``p50``, ``p90`` on them; empty without a forecast."""

    shifts: Sequence[tuple[str, float]]

    @property
    def name(self) -> str:
        """For people."""
        return named(self.metric, self.object)

    @property
    def used(self) -> str:
        """``89 of 97``."""
        return used(self.metric, self.value, self.most)

    def at(self, days: int) -> tuple[float, float, float] | None:
        """p10, p50, p90 so many days ahead; None beyond the horizon."""
        known = list(self.path.get("days", ()))
        if days not in known:
            return None
        place = known.index(days)
        return self.path["p10"][place], self.path["p50"][place], self.path["p90"][place]


def keep(ledger: Ledger, run: Run, outlooks: Iterable[Outlook], now: datetime) -> None:
    """Write down what a run said; said again, it replaces what the same run said before."""
    rows = [(run.platform, run.dag_id, run.run_id, now, *_values(outlook)) for outlook in outlooks]
    with ledger.transaction() as connection, connection.cursor() as cursor:
        connection.execute(
            "delete from capacity_forecasts where platform = %s and dag_id = %s and run_id = %s",
            [run.platform, run.dag_id, run.run_id],
        )
        cursor.executemany(
            f"insert into capacity_forecasts ({', '.join(COLUMNS)}) values ({', '.join(['%s'] * len(COLUMNS))})", rows
        )


def newest(ledger: Ledger, platform: str, now: datetime) -> list[Kept]:
    """The newest forecast of each series."""
    rows = ledger.rows(_text(), {"platform": platform, "since": now - CURRENT})
    return [Kept(**{name: value for name, value in row.items() if name not in ("dag_id", "run_id")}) for row in rows]


def _values(outlook: Outlook) -> list[Any]:
    series, found, until = outlook.series, outlook.forecast, outlook.until
    day, value = series.last
    known = isinstance(found, Forecast)
    tried = found.backtest.methods.get(found.method) if isinstance(found, Forecast) else None
    return [
        series.metric,
        series.object,
        day,
        len(series.values),
        value,
        series.most,
        outlook.state,
        outlook.said,
        found.method if isinstance(found, Forecast) else None,
        tried.error * found.scale if tried and isinstance(found, Forecast) else None,
        found.horizon if isinstance(found, Forecast) else None,
        until.p10 if until else None,
        until.p50 if until else None,
        until.p90 if until else None,
        jsonb(_path(found) if isinstance(found, Forecast) else {}),
        jsonb(_shifts(found) if known and isinstance(found, Forecast) else []),
    ]


def _path(found: Forecast) -> dict[str, list[float]]:
    even = np.linspace(1, found.horizon, min(found.horizon, MOST_POINTS)).round().astype(int)
    days = sorted({*even.tolist(), *(day for day in MILESTONES if day <= found.horizon)})
    places = np.array(days) - 1
    paths = {"p10": found.p10, "p50": found.p50, "p90": found.p90}
    return {"days": days, **{name: [_short(value) for value in path[places]] for name, path in paths.items()}}


def _shifts(found: Forecast) -> list[tuple[str, float]]:
    return [(str(found.first + timedelta(days=shift.index)), _short(shift.size)) for shift in found.shifts]


def _short(value: float) -> float:
    """Six digits are enough for a picture."""
    return float(f"{value:.6g}")


@cache
def _text() -> str:
    return (ROOT / "include" / "sql" / "capacity" / "forecasts.sql").read_text()
