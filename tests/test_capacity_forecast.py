"""Forecasts of series whose future is known; the full table is the contest `forecast`."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest

from bench.forecast import COVERAGE, MOST_BEHIND, MOST_WIDTH, column, of_series, short_of
from bench.growing import KINDS, grow
from upkeep.capacity.forecast import Forecast, Insufficient, Until, forecast
from upkeep.capacity.series import daily, prepare

START = date(2026, 1, 5)


def _samples(values: object) -> dict[date, float | None]:
    return {START + timedelta(day): value for day, value in enumerate(values)}  # type: ignore[arg-type, call-overload]


def _forecast(values: object, **settings: int) -> Forecast:
    found = forecast(_samples(values), **settings)
    assert isinstance(found, Forecast)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_no_single_method_is_much_better(kind: str) -> None:
    found = column(kind, seeds=8)
    best = min(error for name, error in found["errors"].items() if name != "ours")
    assert found["errors"]["ours"] <= best + MOST_BEHIND
    assert found["errors"]["handbook"] > 2 * found["errors"]["ours"] or kind == "acceleration"


@pytest.mark.soak
def test_the_whole_table() -> None:
    columns = {kind: column(kind, seeds=200) for kind in KINDS}
    assert short_of(columns) == []


def test_what_the_contest_promises_can_be_missed() -> None:
    errors = {"ours": 3.1, "flat, raw": 1.0, "handbook": 9.0}
    bad = {"errors": errors, "coverage": COVERAGE[0] - 0.01, "width": MOST_WIDTH + 0.01}
    assert len(short_of({"plain": bad})) == 3


def test_a_purge_is_a_shift_and_no_trend() -> None:
    found = of_series(grow("purge", 1, 180, 180).history)
    (shift,) = found.shifts
    assert -130 < shift.size < -110
    # One a day or nearly so; without the step the line would fall.
    assert 0.8 < (found.p50[-1] - found.p50[0]) / 179 < 1.2


def test_spikes_are_not_seen_as_shifts() -> None:
    grown = grow("outliers", 3, 180, 180)
    prepared = prepare(grown.history)
    assert prepared.shifts == ()
    assert set(prepared.spikes) == set(np.flatnonzero(grown.offset[:180]))


def test_a_monthly_purge_is_how_the_series_lives() -> None:
    """Steps that keep coming are no shifts: lifted, they would turn a flat saw-tooth into growth."""
    days = np.arange(360)
    found = _forecast(1000 + 5.0 * (days % 30) + np.random.default_rng(1).normal(0, 1, 360))
    assert found.shifts == ()
    assert abs(found.p50[-1] - 1072) < 150
    assert found.until(2000).p50 is None


def test_acceleration_is_reported() -> None:
    assert of_series(grow("acceleration", 1, 180, 180).history).method in ("log-linear", "accelerating")


def test_the_week_is_carried_on() -> None:
    found = of_series(grow("week", 2, 180, 180).history)
    weekend = [found.p50[day] for day in range(70) if (180 + day) % 7 > 4]
    assert np.mean(weekend) < np.mean(found.p50[:70]) - 25


def test_days_until_a_limit_are_a_range_around_the_truth() -> None:
    grown = grow("plain", 5, 180, 180)
    limit = 750.0
    truth = int(np.flatnonzero(grown.future >= limit)[0]) + 1
    until = of_series(grown.history).until(limit)
    assert until.p10 is not None
    assert until.p50 is not None
    assert until.p90 is not None
    assert until.p10 <= until.p50 <= until.p90
    assert abs(until.p50 - truth) <= 0.1 * truth + 2


def test_a_limit_out_of_sight_is_never_within_the_horizon() -> None:
    until = _forecast([100.0] * 60).until(200.0)
    assert until == Until(None, None, None, 60)
    assert str(until) == "never within 60 days"


def test_a_limit_already_reached() -> None:
    until = _forecast([100.0] * 30).until(99.0)
    assert (until.p10, str(until)) == (0, "reached")


def test_shrinking_reaches_no_limit_and_nothing_below_zero() -> None:
    found = _forecast(np.linspace(1000, 100, 90))
    assert found.until(1100).p10 is None
    assert found.p10.min() >= 0


def test_the_horizon_is_never_longer_than_the_history() -> None:
    assert _forecast(np.arange(40.0), horizon=180).horizon == 40
    assert _forecast(np.arange(400.0), horizon=180).horizon == 180


@pytest.mark.parametrize("points", [0, 1, 13])
def test_no_number_from_nothing(points: int) -> None:
    found = forecast(_samples([1.0] * points + [None, float("nan"), float("inf")]))
    assert found == Insufficient(points, 14)
    assert str(found) == f"insufficient data: {points} of 14 daily samples"


def test_fewer_samples_than_two_weeks_cannot_be_asked_for() -> None:
    assert isinstance(forecast(_samples([1.0] * 13), least=1), Insufficient)


def test_missing_days_are_gaps_and_not_zeros() -> None:
    samples = _samples(100.0 + np.arange(60.0))
    for day in range(20, 50):
        del samples[START + timedelta(day)]
    found = forecast(samples)
    assert isinstance(found, Forecast)
    assert np.isnan(found.history[20:50]).all()
    assert found.p50[9] == pytest.approx(169, abs=1)


def test_no_sample_is_no_series() -> None:
    with pytest.raises(ValueError, match="no samples"):
        daily({START: None})
