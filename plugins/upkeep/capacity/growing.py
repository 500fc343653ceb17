"""
What the business grows by, and what grows with it.

Everything is forecast from its own history: whether a database grows as its users do is measured and not assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import median

from upkeep.capacity.forecasts import MILESTONES, Kept
from upkeep.capacity.samples import Series

WEEK = timedelta(days=7)

LEAST_WEEKS = 28
"""Days on which both are known a week apart; fewer say nothing about one going with the other."""

BESIDE = ("database_bytes", "bucket_bytes", "topic_bytes", "pods_cpu_cores")

OF_LATE = 90
"""Days that tell how fast it grows now."""


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What went with each thousand more."""

    metric: str
    object: str
    per_thousand: float


@dataclass(frozen=True, kw_only=True)
class Grows:
    """One growth table."""

    name: str
    now: float
    per_day: float | None
    """Of the last 90 days; negative when it shrinks, None when nobody can say yet."""

    ahead: Sequence[tuple[int, tuple[float, float, float]]]
    """``(days, (p10, p50, p90))`` at the milestones within the horizon."""

    kept: Kept
    beside: Sequence[Beside]


def growing(series: Sequence[Series], kept: Sequence[Kept]) -> list[Grows]:
    """Each table that ``capacity.growth`` names and that has been counted."""
    forecasts = {(one.metric, one.object): one for one in kept}
    found = []
    for one in series:
        if one.metric != "rows" or (said := forecasts.get(("rows", one.object))) is None:
            continue
        late = weekly(one)[-OF_LATE:]
        others = [each for each in series if each.metric in BESIDE]
        found.append(
            Grows(
                name=one.object,
                now=one.last[1],
                per_day=median(late) / 7 if len(late) >= 7 else None,
                ahead=[(days, at) for days in MILESTONES if (at := said.at(days))],
                kept=said,
                beside=[each for other in others if (each := _beside(one, other))],
            )
        )
    return found


def weekly(series: Series) -> list[float]:
    """What each seven days added, the oldest first; nothing for weeks that begin or end in a gap."""
    return [value - series.values[day - WEEK] for day, value in series.values.items() if day - WEEK in series.values]


def _beside(one: Series, other: Series) -> Beside | None:
    """The usual week of one against that of the other; None unless both grow."""
    days = [
        day for day in one.values if day - WEEK in one.values and day in other.values and day - WEEK in other.values
    ][-OF_LATE:]
    if len(days) < LEAST_WEEKS:
        return None
    grew = median(one.values[day] - one.values[day - WEEK] for day in days)
    with_it = median(other.values[day] - other.values[day - WEEK] for day in days)
    if grew <= 0 or with_it <= 0:
        return None
    return Beside(metric=other.metric, object=other.object, per_thousand=1000 * with_it / grew)
