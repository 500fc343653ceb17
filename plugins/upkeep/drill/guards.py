"""What must be so before anything is broken on purpose. Each guard says what is not, with its value and a cure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from upkeep.drill.record import Environment
from upkeep.errors import UpkeepError
from upkeep.ledger import Ledger
from upkeep.platforms import Platform
from upkeep.platforms.backup import Drill, Recovery
from upkeep.platforms.base import format_duration
from upkeep.windows.timetable import due

OURS = ("drill_failover", "drill_application", "recovery_%")
"""What only a drill can repair does not forbid it; a backup that could not be restored, or what a drill left, does."""


class GuardError(UpkeepError):
    """A drill is refused."""


@dataclass(frozen=True)
class Asked:
    """One act that somebody wants."""

    environment: Environment
    approved_by: str = ""
    unhealthy: str = ""
    """What is not whole where the drill takes place; empty when all of it is."""


def refuse(ledger: Ledger, platform: Platform, asked: Asked, *, now: datetime | None = None, zone: str = "UTC") -> None:
    """:raises GuardError: with the first of what speaks against it, and how many more there are."""
    found = list(against(ledger, platform, asked, now=now, zone=zone))
    if found:
        more = f" (and {len(found) - 1} more: {'; '.join(one.message for one in found[1:])})" if len(found) > 1 else ""
        raise GuardError(f"{found[0].message}{more}", hint=found[0].hint)


def against(
    ledger: Ledger, platform: Platform, asked: Asked, *, now: datetime | None = None, zone: str = "UTC"
) -> Iterator[GuardError]:
    """
    All that speaks against a failover or an application recovery now.

    :param zone: Airflow's, in which it reads the window's schedule.
    """
    now = now or datetime.now(UTC)
    recovery = platform.recovery
    if recovery is None:
        yield GuardError(
            f"{platform.name} has no recovery section", hint="add `recovery` with rto and rpo to its platform file."
        )
        return
    yield from _trouble(ledger, platform, recovery.drill)
    if asked.unhealthy:
        yield GuardError(f"not everything is whole: {asked.unhealthy}", hint="mend it first; a drill begins well.")
    if asked.environment == "production":
        yield from _production(ledger, platform, recovery, asked, now, zone)


def _production(
    ledger: Ledger, platform: Platform, recovery: Recovery, asked: Asked, now: datetime, zone: str
) -> Iterator[GuardError]:
    if recovery.drill.where != "production":
        yield GuardError(
            f"this is production, and `recovery.drill.where` is {recovery.drill.where}",
            hint="point the drill at staging, or write `where: production` into the platform file.",
        )
    if not asked.approved_by:
        yield GuardError("nobody has said yes to a drill in production", hint="answer the task `ask`.")
    window = platform.windows.quarterly
    (opened,) = due(window, now, 1, zone)
    if now - opened > window.length:
        local = opened.astimezone(ZoneInfo(zone))
        yield GuardError(
            f"the quarterly window is closed: it opened last on {local:%d %b %Y %H:%M %Z} for"
            f" {format_duration(window.length)}",
            hint="wait for the next one, or change `windows.quarterly`.",
        )
    yield from _backup(ledger, platform, recovery.drill, now)


def _backup(ledger: Ledger, platform: Platform, drill: Drill, now: datetime) -> Iterator[GuardError]:
    rows = ledger.rows(
        "select id, content_at from backups where platform = %s and kind in ('database', 'cluster')"
        " and content_state = 'verified' and deleted_at is null order by content_at desc limit 1",
        [platform.name],
    )
    within = format_duration(drill.verified_within)
    hint = "run the verification Dag of the newest backup, then this again."
    if not rows:
        yield GuardError(f"no backup is verified, and one within {within} is asked for", hint=hint)
    elif now - rows[0]["content_at"] > drill.verified_within:
        at = rows[0]["content_at"].astimezone(UTC)
        yield GuardError(
            f"backup {rows[0]['id']} was the last to be verified, on {at:%d %b %Y %H:%M} UTC; within {within} is asked"
            " for",
            hint=hint,
        )


def _trouble(ledger: Ledger, platform: Platform, drill: Drill) -> Iterator[GuardError]:
    """Open findings and incidents; what somebody has waived is meant to stay."""
    rows = ledger.rows(
        "select f.key, f.severity, f.summary from findings as f where f.platform = %s and f.state = 'open'"
        " and f.severity <= %s and f.check_name not like all(%s::text[])"
        " and not exists (select from waived as w where w.key = f.key) order by f.severity, f.key",
        [platform.name, drill.no_open.value, list(OURS)],
    )
    if rows:
        first = rows[0]
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        yield GuardError(
            f"{first['severity']} {first['key']} is open: {first['summary'][:200]}{more}",
            hint=f"no drill while anything of {drill.no_open} or worse is open: mend it first.",
        )
    rows = ledger.rows(
        "select id, severity, title from incidents where platform = %s and not drill and severity <= %s"
        " and state in ('open', 'acknowledged', 'mitigated') order by severity, id",
        [platform.name, drill.no_open.value],
    )
    if rows:
        yield GuardError(
            f"incident {rows[0]['id']} ({rows[0]['severity']}) is open: {rows[0]['title'][:200]}",
            hint="close it first: nobody breaks on purpose what is broken already.",
        )
