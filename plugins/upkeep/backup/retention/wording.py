"""What a run of retention tells people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from upkeep.backup.retention.work import Job, Result
from upkeep.findings import Finding, Outcome, Severity, judged

RETENTION, MANIFESTS = "backup_retention", "backup_manifests"
SEVERITY = Severity.P2
"""Kept too long costs money and may break a promise; that it was not deleted hurts nobody today."""

_SHOWN = 3


def told(job: Job, result: Result, severity: Severity) -> list[Outcome]:
    """
    What became of the backups of one kind, and which of them are not what they should be.

    :param severity: how bad a broken backup is, of the platform file.
    """
    kind, choice, known = job.place.kind, result.choice, result.known
    facts = {
        "backups": len(choice.decisions),
        "bytes": sum(decision.backup.bytes for decision in choice.decisions),
        "content_verified": sum(decision.backup.verified for decision in choice.decisions),
        "marked": result.marked,
        "unmarked": result.unmarked,
        "waiting": [decision.backup.id for decision in choice.of("wait")],
        "deleted": result.deleted,
        "deleted_bytes": result.bytes,
        "deferred": result.deferred,
        "swept": result.swept,
        "plan": result.plan,
    }
    return [
        judged(RETENTION, SEVERITY, _merged(RETENTION, kind, list(_retention(job, result))), object=kind, **facts),
        judged(
            MANIFESTS,
            severity,
            _merged(MANIFESTS, kind, list(_manifests(job, result, severity))),
            object=kind,
            readable=len(known.manifests),
            unreadable=known.unread,
            missing=sorted(known.missing),
        ),
    ]


def _retention(job: Job, result: Result) -> Iterator[tuple[Severity, str, str]]:
    choice = result.choice
    if choice.beyond and not all(decision.backup.approved for decision in choice.going()):
        yield (
            SEVERITY,
            f"nothing more is deleted: {choice.beyond}",
            f"look at the plan; if it is right, trigger {job.run.dag_id} with `approve_plan` = {result.plan} within a"
            " week; or raise `backup.most_share`.",
        )
    if result.failed:
        yield (
            SEVERITY,
            f"could not be deleted: {_some(result.failed)}",
            "repair what the store says, then clear the task; it goes on where it stopped.",
        )
    if choice.stopped and choice.decisions:
        yield (
            Severity.P3,
            f"nothing is deleted: {choice.stopped}",
            "make backups and their verification run again; the old ones stay until they do.",
        )


def _manifests(job: Job, result: Result, severity: Severity) -> Iterator[tuple[Severity, str, str]]:
    known = result.known
    if known.unread:
        yield (
            severity,
            f"{_count(known.unread)} cannot be believed, and count as none: {_some(known.unread)}",
            "find out who changed them; when nobody needs them, delete the folder by hand.",
        )
    lost = {id: "gone" for id, made in known.missing.items() if job.clock() - made <= job.rules.keep}
    if lost:
        url = job.place.store.url(job.place.prefix)
        yield (
            severity,
            f"{_count(lost)} on record, never marked for deletion, and not below {url}: {', '.join(sorted(lost))}",
            "find out who deleted them and whether versions of the bucket bring them back.",
        )


def _merged(check: str, kind: str, said: list[tuple[Severity, str, str]]) -> list[Finding]:
    """One finding per kind: its key is the check and the kind."""
    if not said:
        return []
    return [
        Finding(
            check=check,
            object=kind,
            severity=min((severity for severity, _, _ in said), key=lambda severity: severity.rank),
            summary="; ".join(summary for _, summary, _ in said),
            hint=" ".join(dict.fromkeys(hint for _, _, hint in said)),
        )
    ]


def _count(of: Mapping[str, str]) -> str:
    return "1 backup" if len(of) == 1 else f"{len(of)} backups"


def _some(of: Mapping[str, str]) -> str:
    shown = [f"{id}: {why}" for id, why in sorted(of.items())[:_SHOWN]]
    return "; ".join(shown) + (f" and {len(of) - _SHOWN} more" if len(of) > _SHOWN else "")
