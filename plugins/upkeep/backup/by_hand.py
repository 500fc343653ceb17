"""What people ask and say about backups from a shell: which are there; keep this one whatever the rules say."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from upkeep.backup import records
from upkeep.connections import open_ledger
from upkeep.errors import SettingsError
from upkeep.ledger import Ledger
from upkeep.platforms import platform
from upkeep.platforms.base import parse_duration
from upkeep.report.wording import size

LONGEST = timedelta(days=3653)

STATES = {"verified": "yes", "broken": "BROKEN", "unchecked": "not yet"}


def listed(asked: Namespace) -> str:
    """Every backup on record, the newest last. :raises SettingsError: there is no such platform."""
    name = platform(asked.platform).name
    with open_ledger() as ledger:
        rows = ledger.rows(
            "select * from backups where platform = %s and deleted_at is null order by kind, finished_at", [name]
        )
    if not rows:
        return f"no backup of {name} is on record"
    heads = ("BACKUP", "OF", "FINISHED", "SIZE", "BYTES READ", "CONTENT PROVED", "KEPT")
    lines = [heads, *(_line(row, datetime.now(UTC)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _line(row: Mapping[str, Any], now: datetime) -> tuple[str, ...]:
    kept = []
    if row["legal_hold"]:
        kept.append("on hold")
    if row["pinned_until"] and row["pinned_until"] > now:
        kept.append(f"until {row['pinned_until']:%Y-%m-%d %H:%M}")
    if kept and row["pinned_because"]:
        kept.append(row["pinned_because"])
    if row["marked_at"]:
        kept.append("marked for deletion")
    return (
        row["id"], row["kind"], f"{row['finished_at'].astimezone(UTC):%Y-%m-%d %H:%M}", size(row["bytes"]),
        STATES[row["bytes_state"]], STATES[row["content_state"]], ", ".join(kept),
    )  # fmt: skip


def keep(asked: Namespace) -> str:
    """
    Pin a backup for a while, put it on legal hold, or let it go; what to say.

    :raises SettingsError: something is missing or makes no sense. :raises LedgerError: there is no such backup.
    """
    name = platform(asked.platform).name
    if asked.release:
        with open_ledger() as ledger:
            records.hold(ledger, name, asked.backup, False, "")
            records.pin(ledger, name, asked.backup, None, "")
            return f"{asked.backup} is kept by the rules alone"
    if not asked.hold and not asked.length:
        raise SettingsError(
            "for how long?",
            hint=f'python -m upkeep keep {name} {asked.backup} --for 90d --owner jo --reason "audit of 2026", or'
            " --hold instead of --for, for as long as nobody says --release.",
        )
    if not asked.owner.strip() or not asked.reason.strip():
        raise SettingsError("what is kept has an owner and a reason", hint='add --owner NAME --reason "why".')
    because = f"{asked.reason.strip()} ({asked.owner.strip()})"
    with open_ledger() as ledger:
        if asked.hold:
            records.hold(ledger, name, asked.backup, True, because)
            said = f"{asked.backup} is on hold: nobody deletes it until `--release`"
        else:
            until = datetime.now(UTC) + _length(asked.length)
            records.pin(ledger, name, asked.backup, until, because)
            said = f"{asked.backup} is kept until {until:%Y-%m-%d %H:%M} UTC at least"
        return said + _marked(ledger, name, asked.backup)


def _length(text: str) -> timedelta:
    try:
        length = parse_duration(text)
    except ValueError as wrong:
        raise SettingsError(f"--for: {wrong}, got {text!r}", hint="7d, 90d, 7y.") from None
    if not timedelta(0) < length <= LONGEST:
        raise SettingsError(f"--for is more than nothing and at most 10y, got {text!r}", hint="7d, 90d, 7y; or --hold.")
    return length


def _marked(ledger: Ledger, name: str, id: str) -> str:
    (row,) = ledger.rows("select marked_at from backups where platform = %s and id = %s", [name, id])
    return "; it was marked for deletion, and the next run takes the mark away" if row["marked_at"] else ""
