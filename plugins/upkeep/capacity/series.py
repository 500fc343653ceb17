"""A daily series with gaps, and what of its past says nothing about its future: level shifts, spikes, the week."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
"""One value per day, the newest last; NaN is a gap."""

Days = NDArray[np.int64]
"""Positions in such a series."""

WEEK = 7

SHIFT_MADS = 8.0
"""A step of more than so many median absolute deviations is not noise."""

LEAST_SHIFT = 0.01
"""Nor is a step below this share of the level worth a name."""

SPIKE_DAYS = 3
"""A level left for at most so many samples, and then found again, was a spike."""

DAYS_PER_SHIFT = 45
"""What happens more often than this is how the series lives (a monthly purge), and is left in it."""


@dataclass(frozen=True)
class Shift:
    """A level that changed for good: a purge, a migration, VACUUM FULL. Not a trend."""

    index: int
    """First day of the new level."""

    size: float


@dataclass(frozen=True, eq=False)
class Prepared:
    """A series on its newest level, without spikes and without its week."""

    values: Values
    shifts: tuple[Shift, ...]
    spikes: tuple[int, ...]
    week: Values
    """What each of the seven days adds; ``week[i % 7]`` for day ``i``, ``i`` counted as in ``values``."""


def daily(samples: Mapping[date, float | None]) -> tuple[date, Values]:
    """
    The first day, and one value for each day from then on; what was not measured, or is no number, is a gap.

    :raises ValueError: there is no number at all.
    """
    days = {day: float(value) for day, value in samples.items() if value is not None and np.isfinite(value)}
    if not days:
        raise ValueError("no samples")
    first = min(days)
    values = np.full((max(days) - first).days + 1, np.nan)
    for day, value in days.items():
        values[(day - first).days] = value
    return first, values


def prepare(values: Values) -> Prepared:
    """Take out the week, then the spikes, and lift what lies before a shift to the level after it."""
    week = _week(values)
    flat = values - week[np.arange(len(values)) % WEEK]
    steps = _steps(flat)
    spikes = _spikes(flat, steps)
    if spikes:
        flat = flat.copy()
        flat[list(spikes)] = np.nan
        steps = _steps(flat)
    shifts = tuple(Shift(index, _size(flat, index, sorted(steps))) for index in sorted(steps))
    if len(shifts) > max(1, len(values) // DAYS_PER_SHIFT):
        shifts = ()
    level = flat.copy()
    for shift in shifts:
        level[: shift.index] += shift.size
    return Prepared(level, shifts, spikes, week)


def mad(values: Any) -> float:
    """Median absolute deviation; 0 of nothing."""
    return float(np.median(np.abs(values - np.median(values)))) if len(values) else 0.0


def rolling_median(values: Values, width: int) -> Values:
    """Of the ``width`` values around each; fewer at the ends. NaN where there is none."""
    side = width // 2
    padded = np.concatenate([np.full(side, np.nan), values, np.full(side, np.nan)])
    windows = np.sort(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1)
    # NaN sorts last: nanmedian without its price and its warnings.
    counts = np.sum(~np.isnan(windows), axis=1)
    rows, last = np.arange(len(values)), np.maximum(counts - 1, 0)
    middle = (windows[rows, last // 2] + windows[rows, last - last // 2]) / 2
    return np.where(counts > 0, middle, np.nan)


def _week(values: Values) -> Values:
    """What each day of the week adds to the level; zeros where the series has no week."""
    week = np.zeros(WEEK)
    if len(values) < 3 * WEEK:
        return week
    days = np.arange(len(values)) % WEEK
    off = values - rolling_median(values, WEEK)
    known = ~np.isnan(off)
    if min(np.sum(known & (days == day)) for day in range(WEEK)) < 3:
        return week
    before = mad(off[known])
    for _ in range(3):
        # The median of a week with a strong shape is biased; of a week without its shape it is not.
        week = week + np.array([np.median(off[known & (days == day)]) for day in range(WEEK)])
        week -= week.mean()
        rest = values - week[days]
        off = rest - rolling_median(rest, WEEK)
    # A week that explains little adds more noise than it takes away.
    return week if mad(off[known]) < 0.8 * before else np.zeros(WEEK)


def _steps(values: Values) -> dict[int, float]:
    """``{day: size}`` of each step from one sample to the next that neither noise nor its neighbours explain."""
    at = np.flatnonzero(~np.isnan(values))
    if len(at) < 2 * WEEK:
        return {}
    moved, days = np.diff(values[at]), np.diff(at)
    rate = moved / days
    usual = rolling_median(rate, 15)
    odd = moved - usual * days
    spread = rolling_median(np.abs(odd), 31)
    floor = LEAST_SHIFT * float(np.median(np.abs(values[at])))
    limit = np.maximum(SHIFT_MADS * np.maximum(spread, mad(rate - usual)), floor)
    return {int(at[i + 1]): float(odd[i]) for i in np.flatnonzero(np.abs(odd) > limit)}


def _size(values: Values, index: int, steps: list[int]) -> float:
    """How far the level moved: weeks on both sides are compared, for two single samples are as noisy as any."""
    at = np.flatnonzero(~np.isnan(values))
    rate = float(np.median(np.diff(values[at]) / np.diff(at)))
    level = values[at] - rate * (at - index)
    place = steps.index(index)
    begin = steps[place - 1] if place else 0
    end = steps[place + 1] if place + 1 < len(steps) else len(values)
    before = level[(at >= begin) & (at < index)][-WEEK:]
    after = level[(at >= index) & (at < end)][:WEEK]
    return float(np.median(after) - np.median(before))


def _spikes(values: Values, steps: dict[int, float]) -> tuple[int, ...]:
    """The days between a step and the step back."""
    found: list[int] = []
    at = np.flatnonzero(~np.isnan(values))
    order = {int(day): position for position, day in enumerate(at)}
    places = sorted(steps)
    for leaves, returns in pairwise(places):
        near = order[returns] - order[leaves] <= SPIKE_DAYS
        if near and leaves not in found and abs(steps[leaves] + steps[returns]) < 0.5 * abs(steps[leaves]):
            found += [int(day) for day in at[order[leaves] : order[returns]]]
    return tuple(found)
