"""How a platform is now, in one word and one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from upkeep.findings import Severity
from upkeep.ledger import Ledger
from upkeep.page.ask import ask
from upkeep.platforms import Platform
from upkeep.report.wording import about, counted

State = Literal["incident", "finding", "unknown", "minor", "ok"]

WORST_FIRST: tuple[State, ...] = ("incident", "finding", "unknown", "minor", "ok")

STALE = timedelta(hours=26)
"""After a day without any run nobody knows how the platform is."""


@dataclass(frozen=True, kw_only=True)
class Now:
    """One platform."""

    state: State
    said: str
    open: int = 0
    blind: int = 0
    waived: int = 0
    incidents: int = 0
    worst: Severity | None = None
    looked_at: datetime | None = None


def how(ledger: Ledger, platforms: Sequence[Platform], now: datetime) -> dict[str, Now]:
    """By name. What nobody has looked at for a day is unknown, never well."""
    rows = {row["platform"]: row for row in ask(ledger, "now", platforms=[platform.name for platform in platforms])}
    return {platform.name: _now(platform, rows[platform.name], now) for platform in platforms}


def _now(platform: Platform, row: Mapping[str, Any], now: datetime) -> Now:
    looked_at = row["looked_at"]
    worst = Severity(row["worst"]) if row["worst"] else None
    stale = looked_at is None or now - looked_at > STALE
    said: list[str] = []
    if row["incidents"]:
        said.append(f"{counted(row['incidents'], 'incident')} at work")
    if worst:
        said.append(f"{counted(row['open_findings'], 'finding')} open, worst {platform.severity_name(worst)}")
    if row["blind"]:
        said.append(f"{counted(row['blind'], 'thing')} could not be looked at")
    if looked_at is None:
        said.append("nobody has looked yet")
    elif stale:
        said.append(f"nobody has looked for {about((now - looked_at).total_seconds())}")
    state: State = "ok"
    if row["incidents"]:
        state = "incident"
    elif worst and worst.at_least(platform.severity.failing):
        state = "finding"
    elif row["blind"] or stale:
        state = "unknown"
    elif worst:
        state = "minor"
    return Now(
        state=state,
        said="; ".join(said) or "no finding open",
        open=row["open_findings"],
        blind=row["blind"],
        waived=row["waived"],
        incidents=row["incidents"],
        worst=worst,
        looked_at=looked_at,
    )
