"""
When a limit is reached: p10, p50 and p90 of the days until then, or why nobody can say.

The trend continues, says every forecast; how far that may be wrong is what the back-test measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np

from upkeep.capacity.backtest import Backtest, backtest
from upkeep.capacity.methods import METHODS
from upkeep.capacity.series import WEEK, Shift, Values, daily, prepare

LEAST_POINTS = 14

MOST_DAYS = 3 * 366
"""History before this says little about tomorrow."""

NOMINAL = 0.8
"""Share of futures that lie between p10 and p90."""


@dataclass(frozen=True)
class Insufficient:
    """No number from nothing."""

    points: int
    least: int

    def __str__(self) -> str:
        """``insufficient data: 5 of 14 daily samples``."""
        return f"insufficient data: {self.points} of {self.least} daily samples"


@dataclass(frozen=True)
class Until:
    """Days from the last sample until a limit; None: never within the horizon."""

    p10: int | None
    """The early tenth: one future in ten is there by then."""

    p50: int | None
    p90: int | None
    horizon: int

    def __str__(self) -> str:
        """``in 41 days (early 35, late 52)``, ``never within 180 days``."""
        if self.p10 is None:
            return f"never within {self.horizon} days"
        if self.p10 == 0 == self.p50:
            return "reached"
        late = "later" if self.p90 is None else f"{self.p90}"
        if self.p50 is None:
            return f"not expected within {self.horizon} days (one in ten: {self.p10} days)"
        return f"in {self.p50} days (early {self.p10}, late {late})"


@dataclass(frozen=True, eq=False)
class Forecast:
    """The days after the last sample."""

    first: date
    history: Values
    """As measured, from ``first`` on; NaN is a gap."""

    p10: Values
    p50: Values
    p90: Values
    method: str
    backtest: Backtest
    shifts: tuple[Shift, ...]
    scale: float
    """Errors of the back-test are in units of this."""

    @property
    def horizon(self) -> int:
        """Days; never more than the history has."""
        return len(self.p50)

    def error(self, method: str) -> float:
        """Mean absolute error of a method in the back-test, in the unit of the series."""
        return self.backtest.methods[method].error * self.scale

    def until(self, limit: float) -> Until:
        """When ``limit`` is reached, if things go on as they did."""
        now = self.history[~np.isnan(self.history)][-1]
        if now >= limit:
            return Until(0, 0, 0, self.horizon)
        return Until(_first(self.p90, limit), _first(self.p50, limit), _first(self.p10, limit), self.horizon)


def forecast(
    samples: Mapping[date, float | None], *, horizon: int = 180, least: int = LEAST_POINTS
) -> Forecast | Insufficient:
    """
    Forecast a daily series.

    :param samples: by day; missing days, None, NaN and infinities are gaps, never zeros.
    :param horizon: days ahead; capped at the length of the history.
    :param least: with fewer samples there is no forecast.
    """
    points = sum(value is not None and bool(np.isfinite(value)) for value in samples.values())
    if points < max(least, LEAST_POINTS):
        return Insufficient(points, max(least, LEAST_POINTS))
    first, history = daily(samples)
    recent = history[-MOST_DAYS:]
    # Everything is done in units of the largest value: squares of huge numbers overflow.
    scale = float(np.nanmax(np.abs(recent))) or 1.0
    prepared = prepare(recent / scale)
    ahead = max(1, min(horizon, len(recent)))
    tested = backtest(prepared.values, ahead)
    path = METHODS[tested.chosen](prepared.values, ahead)
    if path is None or not np.isfinite(path).all():
        tested = Backtest(tested.methods, "flat", tested.origins)
        path = METHODS["flat"](prepared.values, ahead)
    assert path is not None
    spread = _spread(tested, ahead)
    season = prepared.week[(len(recent) + np.arange(ahead)) % WEEK]
    lowest = 0.0 if np.nanmin(recent) >= 0 else -np.inf
    low, middle, high = (
        np.clip(np.clip(each + season, lowest, np.inf) * scale, -np.finfo(float).max, np.finfo(float).max)
        for each in (path - spread, path, path + spread)
    )
    before = len(history) - len(recent)
    shifts = tuple(Shift(shift.index + before, shift.size * scale) for shift in prepared.shifts)
    return Forecast(first, history, low, middle, high, tested.chosen, tested, shifts, scale)


def _spread(tested: Backtest, ahead: int) -> Values:
    """
    Half the width of the 80 % interval for each day ahead: normalised conformal prediction.

    Errors are a mixture of noise (the same on each day), of a walk (∝ √days) and of a wrong slope (∝ days); how much
    of each is fitted to the residuals, and the whole is then stretched until it covers what was seen.
    """
    from scipy.optimize import nnls

    tried = tested.methods.get(tested.chosen)
    days = np.arange(1, ahead + 1, dtype=float)
    if tried is None:
        return np.zeros(ahead)
    squares = tried.residuals**2
    if not squares.any():
        return np.zeros(ahead)

    def parts(at: Values) -> Values:
        return np.stack([np.ones_like(at), at, at**2], axis=1)

    weight = np.sqrt(tried.weights) / tried.days
    shares, _ = nnls(parts(tried.days) * weight[:, None], squares * weight)
    width = np.sqrt(parts(days) @ shares)
    seen = np.sqrt(parts(tried.days) @ shares)
    scores = np.abs(tried.residuals[seen > 0]) / seen[seen > 0]
    # The finite-sample level of conformal prediction; residuals of one origin go together, so origins are counted.
    level = min(1.0, NOMINAL * (1 + 1 / tested.origins))
    return np.asarray(width * _quantile(scores, tried.weights[seen > 0], level), dtype=np.float64)


def _quantile(values: Values, weights: Values, level: float) -> float:
    """The smallest value with at least ``level`` of all weight at or below it."""
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    return float(values[order][min(len(values) - 1, int(np.searchsorted(below, level * below[-1])))])


def _first(path: Values, limit: float) -> int | None:
    over = np.flatnonzero(path >= limit)
    return int(over[0]) + 1 if len(over) else None
