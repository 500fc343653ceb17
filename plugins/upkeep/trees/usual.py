"""How far the standing yes of the platform file reaches: a share of the set, and a multiple of what is usual."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median

from upkeep.ledger import Ledger
from upkeep.trees.deleting import Deleted
from upkeep.trees.looking import TreePlan, size

FEW_FILES, FEW_BYTES = 20, 64 * 1024 * 1024
"""So little is never "more than usual"."""


@dataclass(frozen=True)
class Usual:
    """What would be usual to delete today."""

    files: float
    bytes: float


def beyond_usual(plan: TreePlan, times: float, usual: Usual | None) -> str:
    """Whether more than ``times`` the usual is due: the numbers, or ``""``."""
    if usual is None:
        return ""
    if plan.due_files > max(FEW_FILES, times * usual.files):
        return f"{plan.due_files:,} files are due, usual are {usual.files:,.0f}"
    if plan.due_bytes > max(FEW_BYTES, times * usual.bytes):
        return f"{size(plan.due_bytes)} are due, usual are {size(usual.bytes)}"
    return ""


def beyond_share(plan: TreePlan, share: float) -> str:
    """Whether more than ``share`` of the set is due: the numbers, or ``""``."""
    if plan.due_files > share * plan.files:
        return f"{plan.due_files:,} of {plan.files:,} files are due ({plan.due_files / plan.files:.0%})"
    if plan.due_bytes > share * plan.bytes:
        return f"{size(plan.due_bytes)} of {size(plan.bytes)} are due ({plan.due_bytes / plan.bytes:.0%})"
    return ""


def usual(ledger: Ledger, platform: str, capability: str, tree: str, now: datetime) -> Usual | None:
    """
    What would be usual to delete from ``tree`` now: the median of the days on which something was, of the last 60,
    times the days since the last run. None with fewer than five such days.
    """
    days = ledger.rows(
        "select date(at at time zone 'utc') as day, sum(value) filter (where metric = %(files)s) as files,"
        " sum(value) filter (where metric = %(bytes)s) as bytes from samples"
        " where platform = %(platform)s and object = %(tree)s and metric in (%(files)s, %(bytes)s)"
        " and at > %(since)s and at <= %(now)s group by 1 order by 1",
        {
            "platform": platform,
            "tree": tree,
            "now": now,
            "since": now - timedelta(days=60),
            **dict(zip(("files", "bytes"), _metrics(capability), strict=True)),
        },
    )
    busy = [day for day in days if day["files"]]
    if len(busy) < 5:
        return None
    waited = max(1, (now.astimezone(UTC).date() - days[-1]["day"]).days)
    return Usual(median(day["files"] for day in busy) * waited, median(day["bytes"] or 0 for day in busy) * waited)


def remember(ledger: Ledger, platform: str, capability: str, tree: str, done: Deleted, now: datetime) -> None:
    """Keep what was deleted, for ``usual``."""
    files, bytes = _metrics(capability)
    ledger.sample(platform, {(files, tree): done.files, (bytes, tree): done.bytes}, now)


def _metrics(capability: str) -> tuple[str, str]:
    return f"{capability}_deleted_files", f"{capability}_deleted_bytes"
