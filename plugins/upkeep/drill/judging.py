"""A drill as outcomes: what failed, which target was missed, and which will be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

from upkeep.drill.janitor import Settled
from upkeep.drill.record import Drill
from upkeep.findings import Finding, Outcome, Severity, judged, unknown
from upkeep.platforms.backup import Recovery
from upkeep.report.wording import span

CLEANUP, RTO, RPO, FORECAST = "drill_cleanup", "recovery_rto", "recovery_rpo", "recovery_forecast"
REFUSED = Severity.P2
"""Of a drill that was not done: red, and nobody is woken for it."""

COMING = Severity.P3
LEAST = 3
"""Fewer drills say nothing about a trend."""

AHEAD = timedelta(days=365)

HINTS = {
    "restoration": "this backup would not save you: make another now (trigger the backup Dag); find out what broke it.",
    "failover": "the standby would not save you: the drill's report has each step; rehearse again when it is mended.",
    "application": "the application does not come back by itself: the drill's report has each step.",
}


def outcomes(drill: Drill, recovery: Recovery, past: Sequence[Mapping[str, Any]], url: str = "") -> list[Outcome]:
    """
    What a drill that has ended came to.

    :param past: ``record.history`` of its kind, this one included. :param url: of its page.
    """
    what = drill.scenario
    facts: dict[str, Any] = {
        "drill": drill.id, "verdicts": dict(drill.verdicts), "rto_s": drill.rto_s, "rpo_s": drill.rpo_s,
        "environment": drill.environment, **({"page": url} if url else {}),
    }  # fmt: skip
    check = f"drill_{drill.act}"
    made: list[Outcome] = []
    if drill.verdicts["act"] in ("unknown", "pending"):
        made.append(unknown(check, REFUSED, drill.reason or "it did not end", object=what, **facts))
    else:
        failed = [part for part in ("act", "validation") if drill.verdicts[part] != "passed"]
        finding = Finding(
            check=check,
            object=what,
            severity=recovery.severity,
            summary=f"drill {drill.id} ({what.replace('_', ' ')}) failed: {drill.reason}",
            hint=HINTS[drill.act],
            facts=facts,
        )
        made.append(judged(check, recovery.severity, [finding] if failed else [], object=what, **facts))
    made.append(_cleanup(drill, recovery))
    targets = ((RTO, drill.rto_s, recovery.rto), (RPO, drill.rpo_s, recovery.rpo))
    place = f"{drill.act} {what}"
    made += [_target(name, place, value, target, recovery) for name, value, target in targets if value is not None]
    if drill.rto_s is not None:
        made.append(_coming(place, past, recovery))
    return made


def _cleanup(drill: Drill, recovery: Recovery) -> Outcome:
    place = f"{drill.act} {drill.scenario}"
    left = Finding(
        check=CLEANUP,
        object=place,
        severity=recovery.severity,
        summary=f"drill {drill.id} left something behind: {drill.reason}",
        hint="the next run's first task tries again; else put it back by hand, as the drill's report has it.",
    )
    return judged(CLEANUP, recovery.severity, [left] if drill.verdicts["cleanup"] == "failed" else [], object=place)


def left(settled: Sequence[Settled], recovery: Recovery) -> Outcome:
    """What the janitor could put back of dead drills, and what not."""
    findings = [
        Finding(
            check=CLEANUP,
            object="left",
            severity=recovery.severity,
            summary=f"drill {one.id} ({one.act}) died in phase {one.phase or 'begin'}, and not all of it could be"
            f" put back: {one.trouble}",
            hint="mend what stands in the way, then clear this task: it tries again.",
        )
        for one in settled
        if one.trouble
    ]
    return judged(CLEANUP, recovery.severity, findings[:1], object="left", drills=len(settled))


def _target(check: str, place: str, value: float, target: timedelta, recovery: Recovery) -> Outcome:
    most = target.total_seconds()
    said = {
        RTO: (f"recovery took {span(value)}, and {span(most)} is promised", _FASTER),
        RPO: (f"{span(value)} of data would have been lost, and {span(most)} is promised", _FRESHER),
    }[check]
    missed = Finding(
        check=check, object=place, severity=recovery.severity, summary=said[0], hint=said[1],
        facts={"seconds": value, "target_seconds": most},
    )  # fmt: skip
    found = [missed] if value > most else []
    return judged(check, recovery.severity, found, object=place, seconds=value, target_seconds=most)


_FASTER = "the drill's report says which phase took how long: shorten that one, or change `recovery.rto`."
_FRESHER = "back up more often, or keep the log (`backup.cluster`); or change `recovery.rpo`."


@dataclass(frozen=True)
class Trend:
    """A straight line through what was measured."""

    per_day: float
    """Seconds more each day."""

    last: float
    at: datetime

    def crosses(self, target: float) -> datetime | None:
        """When the target will be missed; None when it is missed already, or never will be."""
        if self.per_day <= 0 or self.last >= target:
            return None
        days = (target - self.last) / self.per_day
        return self.at + timedelta(days=days) if days < 36500 else None


def trend(past: Sequence[Mapping[str, Any]]) -> Trend | None:
    """
    How the time to recover grows: with the size of what is recovered where that grew, else with time alone.

    Median of the slopes between all pairs (Theil and Sen): one slow drill does not bend it.
    """
    rows = [row for row in past if row["rto_s"] is not None]
    if len(rows) < LEAST or (rows[-1]["started_at"] - rows[0]["started_at"]) < timedelta(days=1):
        return None
    days = [(row["started_at"] - rows[0]["started_at"]).total_seconds() / 86400 for row in rows]
    times = [float(row["rto_s"]) for row in rows]
    sizes = [float(row["source_bytes"] or 0) for row in rows]
    per_day = _slope(days, times)
    if min(sizes) > 0 and (growth := _slope(days, sizes)) > 0:
        # Each byte costs what it has cost; what is measured once a quarter is noisy, its size is not.
        per_day = growth * median(time / size for time, size in zip(times, sizes, strict=True))
    return Trend(per_day, median(times[-LEAST:]), rows[-1]["started_at"])


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    slopes = [(y[j] - y[i]) / (x[j] - x[i]) for i in range(len(x)) for j in range(i + 1, len(x)) if x[j] > x[i]]
    return median(slopes) if slopes else 0.0


def _coming(place: str, past: Sequence[Mapping[str, Any]], recovery: Recovery) -> Outcome:
    found, line = [], trend(past)
    when = line.crosses(recovery.rto.total_seconds()) if line else None
    if line and when and when - datetime.now(UTC) < AHEAD:
        found.append(
            Finding(
                check=FORECAST,
                object=place,
                severity=COMING,
                summary=f"recovery takes {span(line.last)} and {span(line.per_day * 90)} more each quarter: the"
                f" promised {span(recovery.rto.total_seconds())} will be missed about {when:%d %b %Y}",
                hint=_FASTER,
            )
        )
    facts = {"per_quarter_s": round(line.per_day * 90, 3)} if line else {}
    return judged(FORECAST, COMING, found, object=place, drills=len(past), **facts)
