"""Whatever comes in: a forecast of finite numbers in order, or "insufficient data"; never an exception."""

from __future__ import annotations

import warnings
from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upkeep.capacity.forecast import Forecast, Insufficient, forecast

START = date(2024, 2, 20)

ANY = st.one_of(
    st.none(),
    st.floats(),
    st.floats(min_value=-1e3, max_value=1e3),
    st.sampled_from([0.0, -0.0, 1.0, 5e-324, -1e308, 1.7e308, float("nan"), float("inf")]),
)


def _hold(samples: dict[date, float | None]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = forecast(samples, horizon=60)
    points = sum(value is not None and bool(np.isfinite(value)) for value in samples.values())
    assert isinstance(found, Insufficient) == (points < 14)
    if isinstance(found, Insufficient):
        return
    assert found.horizon == min(60, len(found.history))
    for path in (found.p10, found.p50, found.p90):
        assert np.isfinite(path).all()
    assert (found.p10 <= found.p50).all()
    assert (found.p50 <= found.p90).all()
    until = found.until(float(np.nanmax(found.history)) / 2 + 1)
    early, middle, late = (61 if days is None else days for days in (until.p10, until.p50, until.p90))
    assert early <= middle <= late


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(ANY, max_size=60))
def test_anything(values: list[float | None]) -> None:
    _hold({START + timedelta(day): value for day, value in enumerate(values)})


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.dictionaries(st.integers(0, 500), st.integers(0, 40).map(float), min_size=14, max_size=60))
def test_gaps_anywhere(days: dict[int, float]) -> None:
    _hold({START + timedelta(day): value for day, value in days.items()})


@pytest.mark.parametrize("value", [0.0, 1.0, -7.5, 1e-320, 1e308, -1e308])
@pytest.mark.parametrize("points", [14, 15, 200])
def test_a_constant_stays(value: float, points: int) -> None:
    samples: dict[date, float | None] = {START + timedelta(day): value for day in range(points)}
    _hold(samples)
    found = forecast(samples)
    assert isinstance(found, Forecast)
    assert found.p10 == pytest.approx(found.p90)
    assert found.p50 == pytest.approx(value)


@pytest.mark.parametrize("factor", [1e-200, 1e-3, 1e12, 1e300])
def test_units_do_not_matter(factor: float) -> None:
    values = 500 + np.cumsum(np.random.default_rng(4).normal(1, 0.4, 90))
    one, other = (
        forecast({START + timedelta(day): float(value * by) for day, value in enumerate(values)}) for by in (1, factor)
    )
    assert isinstance(one, Forecast)
    assert isinstance(other, Forecast)
    assert other.p50 / factor == pytest.approx(one.p50, rel=1e-3)
