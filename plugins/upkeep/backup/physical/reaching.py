"""How far the archive of the log reaches, and whether a recovery from the newest base backup would get through."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from upkeep.backup.freshness import WAL
from upkeep.backup.physical.archive import Archive, UnrecoverableError, chain, cluster, needed
from upkeep.backup.retention.choose import length, moment
from upkeep.findings import Finding, Outcome, Severity, judged

ROUNDS = 3
"""So many rounds may be missed where the platform file promises nothing (``recovery.rpo``)."""


def judge(found: Archive, severity: Severity, *, most: timedelta, now: datetime | None = None) -> Outcome:
    """
    ``backup_wal`` of the cluster: age of what was fetched last, and gaps behind the newest base backup.

    :param most: the loss that is allowed.
    """
    now = now or datetime.now(UTC)
    said: list[tuple[str, str]] = []
    newest = max(found.log, key=lambda one: cluster(one).until, default=None)
    if newest is None:
        said.append(("nothing of the log is in the archive", _ROUNDS))
    elif (age := now - cluster(newest).until) > most:
        until = cluster(newest).until
        said.append(
            (f"the archive of the log ends at {moment(until)}, {length(age)} ago (allowed {length(most)})", _ROUNDS)
        )
    if found.bases:
        said += [(why, _BASE) for why in _gaps(found)]
    said += [(f"{id}: {why}", _SWAPPED) for id, why in sorted(found.unread.items())[:1]]
    findings = []
    if said:
        more = f" (and {len(said) - 3} more)" if len(said) > 3 else ""
        summary = "; ".join(what for what, _ in said[:3]) + more
        findings.append(Finding(check=WAL, object="cluster", severity=severity, summary=summary, hint=said[0][1]))
    return judged(
        WAL,
        severity,
        findings,
        object="cluster",
        stretches=len(found.log),
        bases=len(found.bases),
        end=cluster(newest).end if newest else None,
        until=cluster(newest).until.isoformat() if newest else None,
    )


def _gaps(found: Archive) -> list[str]:
    base = found.bases[-1]
    try:
        chain(found, base)
    except UnrecoverableError as gone:
        return [fault.said for fault in gone.faults]
    return [fault.said for fault in needed(found, base).faults]


_ROUNDS = (
    "open the Dag `*_cluster_log` of the platform: its last run says why; meanwhile the server keeps its log for the"
    " slot, so watch its disk."
)
_BASE = "make a base backup now (task `cluster` of the Dag `*_backup`): from then on all is whole again."
_SWAPPED = "somebody changed what lies in the bucket: find out who, and make a base backup."
