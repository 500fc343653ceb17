"""Forecasts in the ledger: what was said, and when, with its error in the back-test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np

from upkeep.capacity.catalog import named, used
from upkeep.capacity.forecast import Forecast, Until
from upkeep.capacity.outlook import Outlook, words
from upkeep.ledger import Ledger, Run
from upkeep.ledger.jsonb import jsonb
from upkeep.settings import ROOT

MILESTONES = (30, 90, 180, 365)
"""Days ahead that people ask about."""

MOST_POINTS = 60
"""Of a path in the ledger; the end is always among them."""

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
    path: Mapping[str, Any]
    """``days`` from ``last_day``, and ``p10``, ``p50``, ``p90`` on them, for pictures; ``ahead``, the milestones. Empty
    without a forecast."""

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
        found = self.path.get("ahead", {}).get(str(days))
        return tuple(found) if found else None


COLUMNS = tuple(each.name for each in fields(Kept))


def kept_of(outlook: Outlook, now: datetime) -> Kept:
    """What the ledger keeps of it."""
    series, found, until = outlook.series, outlook.forecast, outlook.until
    day, value = series.last
    known = found if isinstance(found, Forecast) else None
    tried = known.backtest.methods.get(known.method) if known else None
    return Kept(
        metric=series.metric,
        object=series.object,
        made_at=now,
        last_day=day,
        points=len(series.values),
        value=value,
        most=series.most,
        state=outlook.state,
        said=outlook.said,
        method=known.method if known else None,
        error=tried.error * known.scale if known and tried else None,
        horizon=known.horizon if known else None,
        p10_days=until.p10 if until else None,
        p50_days=until.p50 if until else None,
        p90_days=until.p90 if until else None,
        path=_path(known) if known else {},
        shifts=_shifts(known) if known else [],
    )


def keep(ledger: Ledger, run: Run, kept: Iterable[Kept]) -> None:
    """Write down what a run said; said again, it replaces what the same run said before."""
    rows = [(run.platform, run.dag_id, run.run_id, *(_column(getattr(one, name)) for name in COLUMNS)) for one in kept]
    names = ("platform", "dag_id", "run_id", *COLUMNS)
    with ledger.transaction() as connection, connection.cursor() as cursor:
        connection.execute(
            "delete from capacity_forecasts where platform = %s and dag_id = %s and run_id = %s",
            [run.platform, run.dag_id, run.run_id],
        )
        cursor.executemany(
            f"insert into capacity_forecasts ({', '.join(names)}) values ({', '.join(['%s'] * len(names))})", rows
        )


def newest(ledger: Ledger, platform: str, now: datetime) -> list[Kept]:
    """The newest forecast of each series, its days counted from today."""
    return newest_of(ledger, [platform], now).get(platform, [])


def newest_of(ledger: Ledger, platforms: Sequence[str], now: datetime) -> dict[str, list[Kept]]:
    """The same of several platforms at once."""
    found: dict[str, list[Kept]] = {}
    for row in ledger.rows(_text(), {"platforms": list(platforms), "since": now - CURRENT}):
        kept = Kept(**{name: row[name] for name in COLUMNS})
        found.setdefault(row["platform"], []).append(_aged(kept, now))
    return found


def _aged(kept: Kept, now: datetime) -> Kept:
    """What was in 25 days six days ago is in 19 now."""
    passed = (now.astimezone(UTC).date() - kept.made_at.astimezone(UTC).date()).days
    if passed <= 0 or kept.state not in ("ok", "finding") or kept.horizon is None:
        return kept
    early, expected, late = (
        None if days is None else max(0, days - passed) for days in (kept.p10_days, kept.p50_days, kept.p90_days)
    )
    until = Until(early, expected, late, max(0, kept.horizon - passed))
    return replace(kept, p10_days=early, p50_days=expected, p90_days=late, horizon=until.horizon, said=words(until))


def _column(value: Any) -> Any:
    return jsonb(value) if isinstance(value, (Mapping, list)) else value


def _path(found: Forecast) -> dict[str, Any]:
    paths = {"p10": found.p10, "p50": found.p50, "p90": found.p90}
    days = list(range(1, found.horizon + 1))
    if found.horizon > MOST_POINTS:
        # Every third day of a week that is repeated looks like anything; the means of weeks do not.
        days = np.linspace(1, found.horizon, MOST_POINTS).round().astype(int).tolist()
        drawn = {name: [path[max(0, day - 4) : day + 3].mean() for day in days] for name, path in paths.items()}
    else:
        drawn = {name: path.tolist() for name, path in paths.items()}
    return {
        "days": days,
        **{name: [_short(value) for value in path] for name, path in drawn.items()},
        "ahead": {
            str(day): [_short(path[day - 1]) for path in paths.values()] for day in MILESTONES if day <= found.horizon
        },
    }


def _shifts(found: Forecast) -> list[tuple[str, float]]:
    return [(str(found.first + timedelta(days=shift.index)), _short(shift.size)) for shift in found.shifts]


def _short(value: float) -> float:
    """Six digits are enough for a picture."""
    return float(f"{value:.6g}")


@cache
def _text() -> str:
    return (ROOT / "include" / "sql" / "capacity" / "forecasts.sql").read_text()
