"""
Ways a series may go on. Each takes prepared values (NaN is a gap) and gives the path of the days ahead.

A method that cannot say anything returns None: too few points, or a logarithm of what is not positive.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from upkeep.capacity.series import WEEK, Days, Values

Method = Callable[[Values, int], Values | None]
"""``method(values, days ahead)``."""


class Smoothing(NamedTuple):
    """How much of each surprise goes into the level and into the slope, and where both began."""

    alpha: float
    beta: float
    level: float
    slope: float


MOST_POINTS = 130
"""Theil–Sen looks at every pair: longer histories are thinned."""


def weekly_differences(values: Values, ahead: int) -> Values | None:
    """The median of what a week added: neither a shift, nor a spike, nor the week itself moves it."""
    rates = weekly_rates(values)
    return None if len(rates) < WEEK else _line(values, float(np.median(rates)), ahead)


def theil_sen(values: Values, ahead: int) -> Values | None:
    """The median of the slopes between all pairs."""
    at = np.flatnonzero(~np.isnan(values))
    slope = _median_slope(at, values[at])
    return None if slope is None else _line(values, slope, ahead)


def log_linear(values: Values, ahead: int) -> Values | None:
    """The same share is added each day: Theil–Sen of the logarithm."""
    at = np.flatnonzero(~np.isnan(values))
    if len(at) == 0 or values[at].min() <= 0:
        return None
    logs = np.log(values)
    slope = _median_slope(at, logs[at])
    if slope is None:
        return None
    # Beyond e^50 it is wrong whatever it says; the back-test sees to it that nobody hears of it.
    return np.exp(np.minimum(_line(logs, slope, ahead), 50.0))


def accelerating(values: Values, ahead: int) -> Values | None:
    """Each week adds more (or less) than the one before: a slope of its own for the weekly differences."""
    at = np.flatnonzero(~np.isnan(values[WEEK:] - values[:-WEEK]))
    rates = weekly_rates(values)
    if len(rates) < 4 * WEEK:
        return None
    bend = _median_slope(at, rates)
    if bend is None:
        return None
    # A rate is that of the middle of its week.
    middle = at + WEEK / 2
    now = float(np.median(rates - bend * middle)) + bend * (len(values) - 1)
    days = np.arange(1, ahead + 1)
    return _level(values, now) + now * days + bend * days**2 / 2


def smoothing(values: Values, ahead: int) -> Values | None:
    """Holt's exponential smoothing (statsmodels), parameters by least squares; gaps filled with a line."""
    parameters = smoothing_parameters(values)
    return None if parameters is None else smoothed(values, ahead, parameters)


def flat(values: Values, ahead: int) -> Values | None:
    """It stays where it is."""
    return np.full(ahead, _level(values, 0.0))


METHODS: Mapping[str, Method] = {
    "flat": flat,
    "weekly differences": weekly_differences,
    "theil-sen": theil_sen,
    "log-linear": log_linear,
    "accelerating": accelerating,
    "exponential smoothing": smoothing,
}


def weekly_rates(values: Values) -> Values:
    """What each seven days added, per day."""
    rates: Values = (values[WEEK:] - values[:-WEEK]) / WEEK
    return rates[~np.isnan(rates)]


def smoothing_parameters(values: Values) -> Smoothing | None:
    """What suits the series best. Costs tens of milliseconds; :func:`smoothed` less than one."""
    filled = _filled(values)
    if len(filled) < 2 * WEEK or np.ptp(filled) == 0:
        return None
    # A second to import, and only who forecasts needs it.
    from statsmodels.tsa.holtwinters import Holt

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            found = Holt(filled, initialization_method="heuristic").fit(method="SLSQP").params
        except (ValueError, np.linalg.LinAlgError):
            return None
    chosen = Smoothing(
        *(float(found[name]) for name in ("smoothing_level", "smoothing_trend", "initial_level", "initial_trend"))
    )
    return chosen if all(np.isfinite(chosen)) else None


def smoothed(values: Values, ahead: int, parameters: Smoothing) -> Values | None:
    """Holt's recursion with given parameters, which belong to a series that begins on the same day."""
    filled = _filled(values)
    if len(filled) < WEEK:
        return None
    level, slope = parameters.level, parameters.slope
    for value in filled.tolist():
        before = level
        level = parameters.alpha * value + (1 - parameters.alpha) * (level + slope)
        slope = parameters.beta * (level - before) + (1 - parameters.beta) * slope
    return np.asarray(level + slope * np.arange(1, ahead + 1), dtype=np.float64)


def _line(values: Values, slope: float, ahead: int) -> Values:
    return np.asarray(_level(values, slope) + slope * np.arange(1, ahead + 1), dtype=np.float64)


def _level(values: Values, slope: float) -> float:
    """Where the series stands on its last day: the median of its last week, brought forward."""
    at = np.flatnonzero(~np.isnan(values))[-WEEK:]
    return float(np.median(values[at] + slope * (len(values) - 1 - at)))


def _median_slope(at: Days, values: Values) -> float | None:
    """Theil–Sen; None with fewer than a week's points."""
    if len(at) < WEEK:
        return None
    step = -(-len(at) // MOST_POINTS)
    x, y = at[::step].astype(float), values[::step]
    early, late = np.triu_indices(len(x), 1)
    slopes = (y[late] - y[early]) / (x[late] - x[early])
    return float(np.median(slopes))


def _filled(values: Values) -> Values:
    at = np.flatnonzero(~np.isnan(values))
    if len(at) == 0:
        return np.empty(0)
    return np.asarray(np.interp(np.arange(at[0], len(values)), at, values[at]), dtype=np.float64)
