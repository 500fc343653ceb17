"""What is said of a series, and how bad it is; growth a year ahead (operations.md A49)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import numpy as np
import pytest

from bench.growing import grow
from tests.capacity_history import today
from upkeep.capacity import demand
from upkeep.capacity.forecast import Forecast, Insufficient
from upkeep.capacity.growing import weekly
from upkeep.capacity.outlook import Outlook, look_ahead, outcomes
from upkeep.capacity.samples import Series
from upkeep.findings import Finding, Severity
from upkeep.platforms.growth import Capacity

SECTION = Capacity()


def series(
    values: Iterable[float],
    metric: str = "volume_share",
    *,
    most: float | None = 1.0,
    ends: int = 0,
    name: str = "db:/",
) -> Series:
    listed = list(values)
    first = today() - timedelta(days=ends + len(listed) - 1)
    days = {first + timedelta(days=place): float(value) for place, value in enumerate(listed) if value == value}
    return Series(metric, name, days, most)


def seen(*args: object, **how: object) -> Outlook:
    return look_ahead(series(*args, **how), SECTION, today())  # type: ignore[arg-type]


def found(outlook: Outlook, check: str = "capacity_forecast") -> list[Finding]:
    made = [one for one in outcomes([outlook], SECTION) if one.check == check]
    assert len(made) == 1
    return list(made[0].findings)


@pytest.mark.parametrize("kind", ["plain", "purge", "outliers", "gaps"])
def test_days_until_full_from_ninety_days_are_within_a_tenth(kind: str) -> None:
    """Half of them at least: how much these grow is itself a matter of luck, which nobody can forecast."""
    off, inside = [], []
    for seed in range(9):
        grown = grow(kind, seed, 90, 90)
        full = float(grown.future[59])
        truth = int(np.flatnonzero(grown.future >= full)[0]) + 1
        until = seen(grown.history, most=full / SECTION.full).until
        assert until is not None
        assert until.p10 is not None
        off.append(abs((until.p50 or 90) - truth) / truth)
        inside.append(until.p10 <= truth <= (until.p90 or 999))
    assert np.median(off) <= 0.1
    assert sum(inside) >= 6


@pytest.mark.parametrize(
    ("days", "severity", "said"),
    [
        (60, None, "full in 60 days"),
        (29, Severity.P3, "full in 29 days"),
        (10, Severity.P3, "full in 10 days"),
        (5, Severity.P1, "full in 5 days"),
        (0, Severity.P1, "full already"),
    ],
)
def test_how_soon_it_is_full_decides_how_bad_it_is(days: int, severity: Severity | None, said: str) -> None:
    outlook = seen(0.9 - 0.004 * (days + np.arange(89, -1, -1.0)) + 1e-9)
    assert (outlook.severity, outlook.said[: len(said)]) == (severity, said)
    findings = found(outlook)
    assert [finding.severity for finding in findings] == ([severity] if severity else [])
    if findings:
        (finding,) = findings
        assert finding.object == "volume_share db:/"
        assert said in finding.summary
        assert finding.facts["samples"] == 90
        assert finding.hint


def test_a_wide_guess_is_a_warning_and_calls_nobody() -> None:
    """It could be full within days, and is not expected to be within the month."""
    noise = np.random.default_rng(3).normal(0, 0.06, 120)
    outlook = seen(0.62 + np.cumsum(noise) * 0.35)
    if outlook.until and outlook.until.p10 is not None and (outlook.until.p50 or 999) >= SECTION.warn_left.days:
        assert outlook.severity in (None, Severity.P3)
    assert outlook.severity != Severity.P1


def test_with_too_few_samples_it_is_unknown_and_never_ok() -> None:
    outlook = seen([0.5] * 13)
    assert isinstance(outlook.forecast, Insufficient)
    (outcome,) = outcomes([outlook], SECTION)
    assert outcome.state == "unknown"
    assert outcome.reason.startswith("insufficient data: 13 of 14 daily samples")
    assert outcomes([], SECTION)[0].state == "unknown", "and so is nothing at all"


def test_days_are_counted_from_today_and_old_samples_say_nothing() -> None:
    values = 0.9 - 0.004 * (40 + np.arange(89, -1, -1.0)) + 1e-9
    two_days_ago = seen(values, ends=2)
    assert two_days_ago.until is not None
    assert two_days_ago.until.p50 == 38
    old = seen(values, ends=9)
    assert (old.state, old.said) == ("unknown", "its newest sample is 9 days old")
    (gone,) = outcomes([seen(values, ends=45)], SECTION)
    assert gone.state == "ok", "what has not been there for a month ends its finding"


def test_nothing_is_judged_without_a_limit_or_where_the_limit_is_no_end() -> None:
    for metric, most in (("table_bytes", None), ("autoscaler_replicas", 10.0), ("new", 5.0)):
        outlook = seen([9.0] * 30, metric, most=most)
        assert outlook.state == "free"
        (outcome,) = outcomes([outlook], SECTION)
        assert (outcome.state, outcome.object) == ("ok", "")
    (outcome,) = outcomes([seen([9.0] * 30, "database_bytes", most=None)], SECTION)
    assert outcome.state == "ok", "a limit that was taken away ends its finding"


@pytest.mark.parametrize("most", [0.0, -1.0])
def test_a_limit_of_nothing_is_none(most: float) -> None:
    assert seen([9.0] * 30, "redis_bytes", most=most).until is None


def test_what_is_far_larger_than_needed_is_advice() -> None:
    values = 0.15 + np.random.default_rng(1).normal(0, 0.005, 60)
    (advice,) = found(seen(values, "memory_share"), "capacity_shrink")
    assert advice.severity == Severity.P4
    assert "is needed within 60 days" in advice.summary
    peak = values.copy()
    peak[10] = 0.8
    assert found(seen(peak, "memory_share"), "capacity_shrink") == [], "one busy day was enough"
    assert found(seen(values[:20], "memory_share"), "capacity_shrink") == [], "three weeks are not"


def test_autoscalers_at_their_maximum_and_requests_far_from_use() -> None:
    def judged(metric: str, days: list[float], name: str) -> list[Finding]:
        return [f for o in demand.outcomes([series(days, metric, most=None, name=name)], today()) for f in o.findings]

    (finding,) = judged("autoscaler_at_most_share", [0.0] * 20 + [0.1] * 7, "api")
    assert "at its maximum for 2.4 h a day in the last 7 days" in finding.summary
    assert judged("autoscaler_at_most_share", [0.5] * 20 + [0.01] * 7, "api") == []
    assert judged("autoscaler_at_most_share", [1.0] * 2, "api") == [], "two days tell nothing"
    (low,) = judged("request_share", [0.1] * 7, "web/app/cpu")
    assert low.summary == "web/app uses 10% of the cpu it requests (busiest twentieth of 7 days)"
    (high,) = judged("request_share", [1.5] * 7, "web/app/memory")
    assert high.hint.startswith("raise its request of memory")
    assert judged("request_share", [0.6] * 7, "web/app/cpu") == []


# -- growth, a year ahead ----------------------------------------------------------------------------------


def a_year_ahead(values: np.ndarray) -> Forecast:
    """A table's rows, as the weekly task looks at them."""
    outlook = seen(values, "rows", most=None, name="users")
    assert isinstance(outlook.forecast, Forecast)
    assert outlook.forecast.horizon == 365
    return outlook.forecast


USERS = 10_000 + 20.0 * np.arange(765)


def test_steady_growth_a_year_ahead_is_within_a_twentieth() -> None:
    noise = np.cumsum(np.random.default_rng(2).poisson(20, 765)) - 20.0 * np.arange(1, 766)
    users = USERS + noise
    ahead = a_year_ahead(users[:400])
    assert ahead.p50[-1] == pytest.approx(users[764], rel=0.05)
    assert ahead.p10[-1] < ahead.p50[-1] < ahead.p90[-1], "a range, never one number"
    assert ahead.error(ahead.method) > 0
    assert a_year_ahead(np.full(400, 5_000.0)).p50[-1] == pytest.approx(5_000)


@pytest.mark.parametrize("what", ["step", "outlier", "gap", "zero days"])
def test_a_step_an_outlier_a_gap_and_quiet_days_do_not_explode(what: str) -> None:
    users, truth = USERS[:400].copy(), USERS[764]
    if what == "step":  # a migration brought 5,000 at once, long ago
        users[150:] += 5_000
        truth += 5_000
    elif what == "outlier":
        users[200] *= 3
    elif what == "gap":
        users[100:130] = np.nan
    else:  # nobody signs up on Sundays: the handbook's percentage of new users is infinite
        daily = np.where(np.arange(765) % 7 == 6, 0.0, 20.0 * 7 / 6)
        everybody = 10_000 + np.cumsum(daily)
        users, truth = everybody[:400], everybody[764]
    assert a_year_ahead(users).p50[-1] == pytest.approx(truth, rel=0.05)


def test_who_shrinks_shrinks_and_not_below_nothing() -> None:
    users = 30_000 - 60.0 * np.arange(400)
    ahead = a_year_ahead(users)
    assert ahead.p50[99] == pytest.approx(30_000 - 60 * 499, abs=200)
    assert ahead.p10.min() == 0
    assert weekly(series(users, "rows", most=None))[-1] == -420
