"""
Living with a finding for a while: somebody says why and until when.

A waiver changes whom it bothers, never what was seen: nobody is called or reminded, the page counts it apart, and the
check, the task and the report go on saying what they see. Worse than it was when it was waived, it counts again.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from upkeep.errors import UpkeepError
from upkeep.ledger.jsonb import text
from upkeep.ledger.run import Connection

if TYPE_CHECKING:
    from upkeep.ledger.store import Ledger

LONGEST = timedelta(days=90)
LEAST_REASON, MOST_REASON = 10, 500


class WaiverError(UpkeepError):
    """What was asked of a waiver cannot be done."""


def waive(ledger: Ledger, key: str, *, owner: str, reason: str, length: timedelta) -> dict[str, Any]:
    """
    From now on nobody is called about this finding, nor reminded of it; the waiver's row.

    One that is waived already gets the new reason and time.

    :raises WaiverError: it is not open, or the reason or the time will not do.
    """
    reason = " ".join(text(reason).split())
    if not LEAST_REASON <= len(reason) <= MOST_REASON:
        raise WaiverError(
            f"a waiver has a reason of {LEAST_REASON} to {MOST_REASON} characters, got {len(reason)}",
            hint="say why it is acceptable until then, for whoever asks in a month.",
        )
    if not timedelta(0) < length <= LONGEST:
        raise WaiverError(
            f"a waiver lasts at most {LONGEST.days} days, got {length}",
            hint="what is wanted for good belongs into the platform file: `severity.checks`.",
        )
    with ledger.transaction() as connection:
        finding = connection.execute(
            "select platform, severity, summary from findings where key = %s and state = 'open' for update", [key]
        ).fetchone()
        if finding is None:
            raise WaiverError(
                f"no open finding {key[:200]!r}", hint="it may be over meanwhile; look at the list again."
            )
        _end(connection, "key = %s", [key], owner)
        row = connection.execute(
            "insert into waivers (platform, key, severity, summary, owner, reason, until)"
            " values (%s, %s, %s, %s, %s, %s, clock_timestamp() + %s) returning *",
            [finding["platform"], key, finding["severity"], finding["summary"], text(owner[:200]), reason, length],
        ).fetchone()
    assert row is not None
    return row


def take_back(ledger: Ledger, number: int, who: str) -> bool:
    """It counts again from now on: what it held back is told by the next delivery. False: it was over already."""
    with ledger.transaction() as connection:
        return _end(connection, "id = %s", [number], who)


def waiver(connection: Connection, key: str, severity: str) -> str:
    """``waiver 7`` when somebody lives with this finding, as bad as it is now; else nothing."""
    row = connection.execute(
        # "P0" < "P1" as text: it is waived as long as it is no worse.
        "select id from waivers where key = %s and severity <= %s and starts_at <= clock_timestamp()"
        " and until > clock_timestamp() order by until desc limit 1",
        [key, severity],
    ).fetchone()
    return f"waiver {row['id']}" if row else ""


def _end(connection: Connection, which: str, of: list[Any], who: str) -> bool:
    ended = connection.execute(
        "update waivers set until = greatest(clock_timestamp(), starts_at + interval '1 microsecond'), ended_by = %s"
        f" where {which} and until > clock_timestamp()",  # the condition is ours
        [text(who[:200]), *of],
    )
    return ended.rowcount > 0
