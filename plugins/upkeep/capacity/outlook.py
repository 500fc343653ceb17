"""How each series goes on, and whether that is soon enough to say so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal

from upkeep.capacity.catalog import kind, named, of_limit, said, used
from upkeep.capacity.forecast import Forecast, Insufficient, Until, forecast
from upkeep.capacity.samples import Series
from upkeep.findings import Finding, Outcome, Severity, judged, ok, unknown
from upkeep.platforms.growth import Capacity

CHECK, SHRINK = "capacity_forecast", "capacity_shrink"

WARN, CRITICAL, UNKNOWN_SEVERITY, ADVICE = Severity.P3, Severity.P1, Severity.P3, Severity.P4

STALE_DAYS = 3
"""A newest sample older than this says nothing of now."""

ENDED_DAYS = 30
"""What nobody has measured for so long is not there any more."""

OVERSIZED = 0.3
"""Of its limit: what stays below this, late tenth included, for as far as can be seen, is more than is needed."""

YEAR = 365

DAY = timedelta(days=1)

State = Literal["ok", "finding", "unknown", "free"]
"""``free``: nothing limits it, so nothing is judged."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outlook:
    """One series, forecast and judged."""

    series: Series
    forecast: Forecast | Insufficient
    until: Until | None
    """Days from today until ``full`` of the limit; None: no limit, or no forecast."""

    age: int
    """Days since the newest sample."""

    state: State
    severity: Severity | None
    said: str
    """``full in 41 days (early 35, late 52)``, ``insufficient data: 5 of 14 daily samples …``."""

    oversized: bool = False


def look_ahead(series: Series, section: Capacity, today: date) -> Outlook:
    """Forecast and judge one series, as of today."""
    day, _ = series.last
    age = max(0, (today - day).days)
    # Who plans a business asks about a year.
    horizon = max(section.horizon.days, YEAR) if series.metric == "rows" else section.horizon.days
    found = forecast(series.values, horizon=horizon, least=section.least_samples)
    most = series.most if limited(series) else None
    until, severity, oversized = None, None, False
    state: State = "free" if most is None else "ok"
    if isinstance(found, Insufficient):
        state, text = "unknown", f"{found}; a forecast comes after {found.least - found.points} more"
    else:
        # Without a limit: where it will be when as far ahead is seen as can be.
        text = f"{said(series.metric, found.p50[-1])} in {found.horizon} days"
        if most is not None:
            until = _from_today(found.until(section.full * most), age)
            text, severity = words(until), _severity(until, section)
            state = "finding" if severity else "ok"
            oversized = len(series.values) >= 2 * section.least_samples and bool(
                max(found.p90.max(), max(series.values.values())) < OVERSIZED * most
            )
    if age > STALE_DAYS:
        state, severity, text = "unknown", None, f"its newest sample is {age} days old"
    return Outlook(
        series=series,
        forecast=found,
        until=until,
        age=age,
        state=state,
        severity=severity,
        said=text,
        oversized=oversized and state == "ok",
    )


def outcomes(outlooks: Iterable[Outlook], section: Capacity) -> list[Outcome]:
    """An outcome for each series that has a limit, or could have one; of the rest nothing is judged."""
    made = []
    outlooks = list(outlooks)
    if not outlooks:
        reason = "there is no daily sample yet; the task `capacity` of the daily maintenance takes them"
        return [unknown(CHECK, UNKNOWN_SEVERITY, reason)]
    for outlook in outlooks:
        if kind(outlook.series.metric).hint and not limited(outlook.series):
            # One that had a limit and lost it is no finding any more.
            made.append(ok(CHECK, WARN, object=outlook.series.name, said="nothing is known to limit it"))
        elif limited(outlook.series):
            made.append(_outcome(outlook, section))
            if kind(outlook.series.metric).shrink and outlook.state in ("ok", "finding"):
                made.append(_shrink(outlook))
    return made or [ok(CHECK, WARN, said="nothing that is sampled has a limit")]


def words(until: Until) -> str:
    """``full in 41 days (early 35, late 52)``, ``not full within 180 days``."""
    if until.p10 is None:
        return f"not full within {until.horizon} days"
    if until.p50 is None:
        return f"not expected to be full within {until.horizon} days; one in ten: within {until.p10}"
    return "full already" if until.p50 == 0 else f"full {until}"


def limited(series: Series) -> bool:
    return series.most is not None and series.most > 0 and bool(kind(series.metric).hint)


def _severity(until: Until, section: Capacity) -> Severity | None:
    """By the early tenth; critical only when it is also expected within the lead time, not merely possible."""
    warn, critical = section.warn_left / DAY, section.critical_left / DAY
    if until.p10 is None or until.p10 >= warn:
        return None
    return CRITICAL if until.p10 < critical and until.p50 is not None and until.p50 < warn else WARN


def _from_today(until: Until, age: int) -> Until:
    p10, p50, p90 = (None if days is None else max(0, days - age) for days in (until.p10, until.p50, until.p90))
    return Until(p10, p50, p90, max(0, until.horizon - age))


def _outcome(outlook: Outlook, section: Capacity) -> Outcome:
    series, found = outlook.series, outlook.forecast
    facts = facts_of(outlook)
    if outlook.age > ENDED_DAYS:
        return judged(CHECK, UNKNOWN_SEVERITY, [], object=series.name, **facts, said="it is not there any more")
    if outlook.state == "unknown" or isinstance(found, Insufficient):
        return unknown(CHECK, UNKNOWN_SEVERITY, outlook.said, object=series.name, **facts)
    findings = []
    if outlook.severity:
        assert series.most is not None
        _, value = series.last
        now = f"{used(series.metric, value, series.most)} in use"
        findings.append(
            Finding(
                check=CHECK,
                object=series.name,
                severity=outlook.severity,
                summary=f"{named(series.metric, series.object)}: {now}; {outlook.said}; full is {section.full:.0%}",
                hint=kind(series.metric).hint,
                facts=facts,
            )
        )
    return judged(CHECK, outlook.severity or WARN, findings, object=series.name, **facts)


def _shrink(outlook: Outlook) -> Outcome:
    series = outlook.series
    found = outlook.forecast
    findings = []
    if outlook.oversized and isinstance(found, Forecast) and series.most:
        top = max(found.p90.max(), max(series.values.values()))
        findings.append(
            Finding(
                check=SHRINK,
                object=series.name,
                severity=ADVICE,
                summary=f"{named(series.metric, series.object)}: never more than {top / series.most:.0%}"
                f"{of_limit(series.metric, series.most)} is needed within {found.horizon} days",
                hint=f"{kind(series.metric).shrink} Peaks shorter than a day's busiest twentieth are not seen here.",
                facts={"most_needed": round(float(top), 4), "limit": series.most},
            )
        )
    return judged(SHRINK, ADVICE, findings, object=series.name)


def facts_of(outlook: Outlook) -> dict[str, Any]:
    """The numbers behind it; JSON values only."""
    series, found, until = outlook.series, outlook.forecast, outlook.until
    day, value = series.last
    facts: dict[str, Any] = {"value": value, "limit": series.most, "samples": len(series.values), "last": str(day)}
    if until is not None:
        facts |= {"days_left_early": until.p10, "days_left": until.p50, "days_left_late": until.p90}
    if isinstance(found, Forecast):
        facts |= {"method": found.method, "horizon_days": found.horizon, "level_shifts": len(found.shifts)}
        if found.method in found.backtest.methods:
            facts["backtest_error"] = round(found.error(found.method), 6)
    return facts
