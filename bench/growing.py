"""Synthetic growth: series whose future is known, and an oracle who knows how they were made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

KINDS = ("plain", "purge", "outliers", "acceleration", "week", "gaps")

LEVEL, STEP, NOISE = 500.0, 0.4, 1.5
"""Where it starts; how much a day's growth of 1 varies; how much a measurement does."""

WEEKDAYS = np.array([1.2, 1.2, 1.1, 1.1, 1.0, 0.7, 0.7])
"""How much of a day's growth each weekday has, in every kind."""

SEASON = np.array([15.0, 18.0, 16.0, 12.0, 9.0, -34.0, -36.0])
"""What kind ``week`` adds to the level: sessions, connections, load."""


@dataclass(frozen=True, eq=False)
class Grown:
    history: Values
    """NaN is a gap."""

    future: Values
    drift: Values
    """The growth of each day that the generator meant, history and future."""

    offset: Values
    """What it put on top of the level: purges, outliers, the week."""


def grow(kind: str, seed: int, history: int, ahead: int) -> Grown:
    """
    ``history`` days to learn from and ``ahead`` to be judged by.

    The same rules as the first experiment (operations.md §7), with a history as long as the horizon.
    """
    rng = np.random.default_rng([KINDS.index(kind), seed])
    days = np.arange(history + ahead)
    steps = np.maximum(rng.normal(1.0, STEP, len(days)), 0) * WEEKDAYS[days % 7]
    drift = np.ones(len(days)) * WEEKDAYS[days % 7]
    if kind == "acceleration":
        steps, drift = steps * (1 + days / 270), drift * (1 + days / 270)
    offset = np.zeros(len(days))
    if kind == "purge":
        offset[int(history * rng.uniform(0.25, 0.75)) :] -= 120
    if kind == "outliers":
        offset[rng.choice(history, max(2, history // 40), replace=False)] += 200
    if kind == "week":
        offset += SEASON[days % 7]
    values = LEVEL + np.cumsum(steps) + rng.normal(0, NOISE, len(days)) + offset
    seen = values[:history].copy()
    if kind == "gaps":
        # Single days, and one fortnight in which the sampler was down.
        seen[rng.choice(history, history // 6, replace=False)] = np.nan
        hole = int(rng.integers(7, history - 21))
        seen[hole : hole + 14] = np.nan
    return Grown(seen, values[history:], drift, offset)


def oracle(grown: Grown, ahead: int) -> tuple[float, float]:
    """The 80 % interval of one who knows drift, offsets and noises, and only not what chance will do."""
    history = len(grown.history)
    variance = (STEP * grown.drift) ** 2
    level, doubt = LEVEL, 0.0
    # A Kalman filter of the level.
    for day in range(history):
        level, doubt = level + grown.drift[day], doubt + variance[day]
        if not np.isnan(grown.history[day]):
            gain = doubt / (doubt + NOISE**2)
            level += gain * (grown.history[day] - grown.offset[day] - level)
            doubt *= 1 - gain
    future = slice(history, history + ahead)
    middle = level + grown.drift[future].sum() + grown.offset[history + ahead - 1]
    half = 1.2816 * float(np.sqrt(doubt + variance[future].sum() + NOISE**2))
    return middle - half, middle + half
