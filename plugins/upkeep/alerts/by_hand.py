"""What people tell Upkeep from a shell: be quiet about this for a while; somebody works on it."""

from __future__ import annotations

from argparse import Namespace

from upkeep.alerts.escalate import acknowledged
from upkeep.connections import open_ledger
from upkeep.errors import SettingsError
from upkeep.ledger.outbox import enqueue
from upkeep.platforms import platform
from upkeep.platforms.base import format_duration, parse_duration

LONGEST = "14d"


def silence(asked: Namespace) -> str:
    """Begin or end one; what to say. :raises SettingsError: something is missing or makes no sense."""
    if asked.end is not None:
        with open_ledger() as ledger:
            if not ledger.end_silence(asked.end):
                raise SettingsError(f"no silence {asked.end} to end", hint="it is over, or never was.")
        return f"silence {asked.end} is over; what it held back and is still broken is told within a minute"
    if not asked.platform or not asked.pattern:
        raise SettingsError(
            "a silence is for a platform and a pattern",
            hint='python -m upkeep silence studyspot "http/*" --for 2h --owner jo --reason "deploying 4.2"',
        )
    subject = platform(asked.platform)
    if not asked.owner.strip() or not asked.reason.strip():
        raise SettingsError("a silence has an owner and a reason", hint='add --owner NAME --reason "why".')
    try:
        length = parse_duration(asked.length)
    except ValueError as wrong:
        raise SettingsError(f"--for: {wrong}, got {asked.length!r}", hint="30m, 2h, 1d.") from None
    if length > parse_duration(LONGEST) or not length:
        raise SettingsError(
            f"--for is at most {LONGEST}, got {asked.length!r}",
            hint="what is wanted for longer belongs into the platform file: `severity.checks` or `alerts.because`.",
        )
    with open_ledger() as ledger:
        number = ledger.silence(subject.name, asked.pattern, owner=asked.owner, reason=asked.reason, length=length)
    return f"silence {number}: nobody is called about {subject.name}/{asked.pattern} for {format_duration(length)}"


def acknowledge(key: str, who: str) -> str:
    """Reminders end, and PagerDuty and Slack are told. :raises SettingsError: nothing of that name is open."""
    with open_ledger() as ledger:
        rows = ledger.rows("select * from findings where key = %s and state = 'open'", [key])
        if not rows:
            raise SettingsError(f"no open alert {key!r}", hint="its key stands in the alert: studyspot/http/api.")
        if not ledger.acknowledge(key, who):
            return f"{key} is acknowledged already, by {rows[0]['acknowledged_by']}"
        with ledger.transaction() as connection:
            for message in acknowledged(platform(rows[0]["platform"]), rows[0], who):
                enqueue(connection, message)
    return f"{key} is acknowledged by {who}; PagerDuty and Slack hear of it within a minute"
