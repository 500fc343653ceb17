"""Autoscalers that are at their maximum day after day, and requests that have nothing to do with use."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from statistics import mean, median

from upkeep.capacity.outlook import ENDED_DAYS
from upkeep.capacity.samples import Series
from upkeep.findings import Finding, Outcome, Severity, judged, ok

AT_MOST, REQUESTS = "capacity_autoscaler", "capacity_requests"

WEEK = timedelta(days=7)

LEAST_DAYS = 3
"""Of the last week; fewer tell nothing."""

MOST_AT_MOST = timedelta(minutes=30)
"""A day on average at its maximum is usual on a busy platform; more means that it would go further if it could."""

USED_LITTLE, USED_TOO_MUCH = 0.25, 1.2
"""Of what is requested, in the busiest twentieth of the day."""


def outcomes(series: Sequence[Series], today: date) -> list[Outcome]:
    """``capacity_autoscaler`` and ``capacity_requests``, an outcome for each that was seen within the last week."""
    made = []
    checks = {"autoscaler_at_most_share": AT_MOST, "request_share": REQUESTS}
    for one in series:
        if one.metric in checks and (today - one.last[0]).days > ENDED_DAYS:
            made.append(ok(checks[one.metric], Severity.P4, object=one.object, said="it is not there any more"))
        days = [value for day, value in one.values.items() if today - day < WEEK]
        if len(days) >= LEAST_DAYS and one.metric == "autoscaler_at_most_share":
            made.append(_at_most(one.object, days))
        if len(days) >= LEAST_DAYS and one.metric == "request_share":
            made.append(_requests(one.object, median(days), len(days)))
    return made


def _at_most(name: str, days: Sequence[float]) -> Outcome:
    hours = mean(days) * 24
    findings = []
    if hours > MOST_AT_MOST.total_seconds() / 3600:
        findings.append(
            Finding(
                check=AT_MOST,
                object=name,
                severity=Severity.P3,
                summary=f"autoscaler {name} was at its maximum for {hours:.1f} h a day in the last {len(days)} days",
                hint="raise its maxReplicas (and see that the nodes have room), or make the work cheaper.",
                facts={"hours_a_day": round(hours, 2), "days": len(days)},
            )
        )
    return judged(AT_MOST, Severity.P3, findings, object=name, hours_a_day=round(hours, 2))


def _requests(name: str, share: float, days: int) -> Outcome:
    """Too little is taken from others on the node; too much reserves what nobody uses."""
    workload, _, resource = name.rpartition("/")
    findings = []
    if not USED_LITTLE <= share <= USED_TOO_MUCH:
        little = share < USED_LITTLE
        findings.append(
            Finding(
                check=REQUESTS,
                object=name,
                severity=Severity.P4,
                summary=f"{workload} uses {share:.0%} of the {resource} it requests (busiest twentieth of {days} days)",
                hint=f"{'lower' if little else 'raise'} its request of {resource}: "
                + ("nobody else can have what is reserved." if little else "on a full node it is the first to suffer."),
                facts={"share": round(share, 4), "days": days},
            )
        )
    return judged(REQUESTS, Severity.P4, findings, object=name, share=round(share, 4))
