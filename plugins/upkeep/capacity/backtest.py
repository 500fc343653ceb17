"""Rolling-origin back-test: what each method would have said then, against what came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from upkeep.capacity.methods import METHODS, Method, smoothed, smoothing_parameters
from upkeep.capacity.series import WEEK, Days, Values

ORIGINS = 12
"""Days from which the past is forecast."""

DEFAULT = "weekly differences"

PREFERENCE = 0.8
"""Another straight line replaces the default when its error is at most this share of the default's."""

CURVED = ("log-linear", "accelerating")

CURVE_PREFERENCE = 0.75
"""A curve must be better still than the best line: carried far ahead, a bend seen by chance does most harm."""

PROBES = (3, 7, 14, 30, 60, 90, 120, 180)
"""Days ahead at which errors are measured."""


@dataclass(frozen=True, eq=False)
class Tried:
    """One method in the back-test."""

    error: float
    """Mean absolute error over all origins and days ahead."""

    days: Values
    """Days ahead of each residual …"""

    residuals: Values
    """… and what came minus what was said …"""

    weights: Values
    """… and how much it tells about today: the share of the history that was known then, squared."""


@dataclass(frozen=True, eq=False)
class Backtest:
    methods: Mapping[str, Tried]
    chosen: str
    origins: int


def backtest(values: Values, ahead: int) -> Backtest:
    """Compare all methods on the same origins. Needs two weeks of points; may try none on very gappy series."""
    known = ~np.isnan(values)
    origins = _origins(values)
    # Parameters come from before the first origin: nothing that is tested was seen.
    parameters = smoothing_parameters(values[: origins[0]]) if len(origins) else None
    tried = {}
    for name, method in METHODS.items():
        if name == "exponential smoothing":
            if parameters is None:
                continue
            method = partial(smoothed, parameters=parameters)
        result = _try(values, known, origins, method, ahead)
        if result is not None:
            tried[name] = result
    return Backtest(tried, _choose(tried), len(origins))


def _origins(values: Values) -> Days:
    """From a third of the history on, evenly; each with two weeks before it and half a week behind."""
    first, last = max(2 * WEEK, len(values) // 3), len(values) - PROBES[0]
    if last <= first:
        return np.arange(max(WEEK, last), max(WEEK, last) + (last >= WEEK))
    return np.unique(np.linspace(first, last, ORIGINS).round().astype(int))


def _try(values: Values, known: Values, origins: Days, method: Method, ahead: int) -> Tried | None:
    days: list[float] = []
    residuals: list[float] = []
    weights: list[float] = []
    for origin in origins:
        left = min(len(values) - origin, ahead)
        path = method(values[:origin], left) if known[:origin].any() else None
        if path is None:
            continue
        probes = np.array([probe for probe in PROBES if probe <= left and known[origin + probe - 1]], dtype=int)
        days += probes.tolist()
        residuals += (values[origin + probes - 1] - path[probes - 1]).tolist()
        weights += [float(origin / len(values)) ** 2] * len(probes)
    if not residuals or not np.isfinite(residuals).all():
        return None
    return Tried(float(np.mean(np.abs(residuals))), np.array(days), np.array(residuals), np.array(weights))


def _choose(tried: Mapping[str, Tried]) -> str:
    """The default, unless another is clearly better; only what was tried as often as any other may be."""
    most = max((len(each.residuals) for each in tried.values()), default=0)
    full = {name: each for name, each in tried.items() if len(each.residuals) == most}
    if not full:
        return "flat"
    lines = {name: each.error for name, each in full.items() if name not in CURVED}
    line = min(lines, key=lambda name: lines[name], default="flat")
    if DEFAULT in lines and lines[line] > PREFERENCE * lines[DEFAULT]:
        line = DEFAULT
    best = min(full, key=lambda name: full[name].error)
    curved = best in CURVED and full[best].error <= CURVE_PREFERENCE * lines.get(line, np.inf)
    return best if curved else line
