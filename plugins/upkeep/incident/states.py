"""What an incident may become, and when somebody must be told again. Pure: no clock, no database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from upkeep.errors import UpkeepError
from upkeep.findings import Severity
from upkeep.platforms.alerting import Level

State = Literal["open", "acknowledged", "mitigated", "resolved", "review", "closed"]
Kind = Literal["unacknowledged", "unresolved", "update", "review_due"]

MOVES: dict[State, tuple[State, ...]] = {
    "open": ("acknowledged", "mitigated", "resolved"),
    "acknowledged": ("mitigated", "resolved"),
    # It came back before it was over.
    "mitigated": ("acknowledged", "resolved"),
    "resolved": ("acknowledged", "review", "closed"),
    "review": ("closed",),
    "closed": (),
}
"""From each state to which others."""

AT_WORK: tuple[State, ...] = ("open", "acknowledged", "mitigated")
"""States in which somebody waits for it to be over."""

REVIEW_WITHIN = {Severity.P0: 3, Severity.P1: 5}
"""Days until the review is held: calendar days for P0, working days for the rest (PagerDuty's practice)."""


class IncidentError(UpkeepError):
    """What was asked of an incident cannot be done."""


def move(now: State, to: State, *, review: bool) -> State:
    """
    The next state.

    :param review: whether it must be reviewed before it is closed.
    :raises IncidentError: that does not follow; says what does.
    """
    allowed = tuple(one for one in MOVES[now] if not (review and (now, one) == ("resolved", "closed")))
    if to not in allowed:
        raise IncidentError(
            f"an incident that is {now} cannot become {to}",
            hint=f"from here it becomes {' or '.join(allowed)}." if allowed else "declare a new one.",
        )
    return to


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """What the timers need to know of an incident."""

    state: State
    severity: Severity
    declared_at: datetime
    resolved_at: datetime | None = None
    told: Mapping[Kind, int] = field(default_factory=dict)
    """How often each was told already."""

    updated_at: datetime | None = None
    """When those who wait last heard how it stands."""


@dataclass(frozen=True)
class Due:
    """Something to be told now."""

    kind: Kind
    number: int
    """1 for the first time."""

    manager: bool = False
    """Whether more people hear of it."""


def due(clocks: Clocks, level: Level, now: datetime) -> list[Due]:
    """
    What must be told by now and has not been; at most one of each kind.

    Nobody acknowledges: after ``remind``, twice, four times … as long, managers from the second time on. Not over
    within ``resolve``: once. An update every ``update`` while it lasts. A review that is late: once a day.
    """
    found = []
    age = now - clocks.declared_at
    remind = level.remind or level.respond
    if clocks.state == "open":
        number = clocks.told.get("unacknowledged", 0)
        if age >= remind * 2 ** min(number, 10):
            found.append(Due("unacknowledged", number + 1, manager=number >= 1))
    if clocks.state in AT_WORK:
        if age >= level.resolve and not clocks.told.get("unresolved"):
            found.append(Due("unresolved", 1, manager=True))
        if level.update and now - (clocks.updated_at or clocks.declared_at) >= level.update:
            found.append(Due("update", clocks.told.get("update", 0) + 1))
    if clocks.state in ("resolved", "review") and level.review and clocks.resolved_at:
        number = clocks.told.get("review_due", 0)
        if now >= review_due(clocks.resolved_at, clocks.severity) + timedelta(days=number):
            found.append(Due("review_due", number + 1, manager=number >= 1))
    return found


def review_due(resolved_at: datetime, severity: Severity) -> datetime:
    """When the review must have been held."""
    days = REVIEW_WITHIN.get(severity, 5)
    if severity is Severity.P0:
        return resolved_at + timedelta(days=days)
    at = resolved_at
    while days:
        at += timedelta(days=1)
        days -= at.weekday() < 5
    return at
