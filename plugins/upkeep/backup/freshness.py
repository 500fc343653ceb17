"""Whether backups are as young, as large and as proved as they should be; absence is the loudest of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

from upkeep.backup.content import query
from upkeep.backup.manifest import Kind, Manifest
from upkeep.backup.programs import Programs
from upkeep.backup.retention.choose import SKEW, Candidate, length, moment
from upkeep.backup.retention.known import Known, Place, look
from upkeep.backup.store import StoreError
from upkeep.findings import Finding, Outcome, Severity, judged, unknown
from upkeep.ledger import Ledger
from upkeep.platforms.backup import Backup
from upkeep.postgres.session import Connection

AGE, VERIFIED, SIZE, WAL, CLIENT = "backup_age", "backup_verified", "backup_size", "backup_wal", "backup_client"

USUAL = 7
"""So many earlier backups say what size is usual …"""

LEAST_USUAL = 3
"""… and fewer say nothing."""

HOUSEKEEPING = 64 * 1024
"""Bytes of log that an idle server writes by itself after a segment was archived."""


@dataclass(frozen=True)
class Kept:
    """The backups of one kind, newest first."""

    kind: Kind
    candidates: Sequence[Candidate]
    manifests: Mapping[str, Manifest]
    since: datetime
    """When Upkeep began to look after the platform: before that nobody could have made one."""

    lost: int = 0
    """So many are on record, and were deleted by somebody else."""


def look_at(ledger: Ledger, places: Iterable[Place], section: Backup, now: datetime | None = None) -> list[Outcome]:
    """
    Age, proof and size of the backups of each kind.

    :raises LedgerError: the ledger is away: nobody knows what was verified.
    """
    now = now or datetime.now(UTC)
    outcomes: list[Outcome] = []
    for place in places:
        checks = _checks(place.kind)
        try:
            known = look(ledger, place, now=now, abandoned_after=section.unfinished)
        except StoreError as away:
            # One cause, one alert: the others could not look because of the first.
            outcomes.append(unknown(AGE, section.severity, away.message, object=place.kind))
            outcomes += [
                unknown(check, section.severity, away.message, object=place.kind, explained_by=AGE)
                for check in checks
                if check != AGE
            ]
            continue
        kept = _kept(place.kind, known, _since(ledger, place.platform, now))
        judges = {AGE: age, VERIFIED: verified, SIZE: size}
        outcomes += [judges[check](kept, section, now) for check in checks]
    return outcomes


def _checks(kind: Kind) -> tuple[str, ...]:
    # Each file is compared when it is copied; nothing of the whole is restored.
    return (AGE, SIZE) if kind == "files" else (AGE, VERIFIED, SIZE)


def _kept(kind: Kind, known: Known, since: datetime) -> Kept:
    newest_first = sorted(known.candidates, key=lambda one: (one.at, one.id), reverse=True)
    return Kept(kind, newest_first, known.manifests, since, lost=len(known.missing))


def _since(ledger: Ledger, platform: str, now: datetime) -> datetime:
    rows = ledger.rows("select min(first_seen_at) as at from runs where platform = %s", [platform])
    return rows[0]["at"] or now


def age(kept: Kept, section: Backup, now: datetime) -> Outcome:
    """``backup_age``: of the newest one that is committed."""
    newest = kept.candidates[0] if kept.candidates else None
    if newest is not None and newest.at > now + SKEW:
        wrong = f"the newest backup of the {kept.kind} is dated {moment(newest.at)}, and now is {moment(now)}"
        hint = "compare the clocks of the workers; until they agree nobody knows how old a backup is."
        return _judged(AGE, kept, section.severity, wrong, hint)
    why, severity = _too_old(kept, newest, section.fresh, section.severity, now)
    hint = f"open the Dag `*_backup` of the platform: the task of the {kept.kind} says why; then run it again."
    return _judged(AGE, kept, severity, why and f"no backup of the {kept.kind} {why}", hint, newest)


def verified(kept: Kept, section: Backup, now: datetime) -> Outcome:
    """``backup_verified``: age of the newest one whose restored content was what its manifest says."""
    newest = next((one for one in kept.candidates if one.verified), None)
    why, severity = _too_old(kept, newest, 2 * section.fresh, section.severity, now)
    hint = "open the Dag of the verification: it says what differs, or why it could not restore."
    return _judged(
        VERIFIED, kept, severity, why and f"no content-verified backup of the {kept.kind} {why}", hint, newest
    )


def _too_old(
    kept: Kept, newest: Candidate | None, most: timedelta, severity: Severity, now: datetime
) -> tuple[str, Severity]:
    """What is wrong, or ``""``; a platform that is new here has as long as any for its first."""
    if newest is not None:
        old = now - newest.at
        said = f"since {moment(newest.at)}, {length(old)} ago (allowed {length(most)}): {newest.id}"
        return (said if old > most else ""), severity
    if kept.lost and not kept.candidates:
        return f"is left: {kept.lost} on record, and none of them in the bucket", severity
    if now - kept.since > most:
        return f"at all, in the {length(now - kept.since)} since Upkeep looks after the platform", severity
    return f"yet; the first must be there by {moment(kept.since + most)}", Severity.P4


def size(kept: Kept, section: Backup, now: datetime) -> Outcome:
    """``backup_size``: of the newest one, against the median of the seven before it."""
    sizes = [(one.id, _size(one, kept.manifests[one.id])) for one in kept.candidates[: USUAL + 1]]
    if len(sizes) <= LEAST_USUAL:
        return _judged(SIZE, kept, section.severity, "", "")
    (id, newest), usual = sizes[0], median(bytes for _, bytes in sizes[1:])
    share = newest / usual if usual else 1.0
    why = ""
    if abs(share - 1) > section.size_band or share < section.least_size:
        than = f"{1 - share:.0%} smaller" if share < 1 else f"{share - 1:.0%} larger"
        why = f"{id} has {newest:,} bytes, {than} than usual ({usual:,.0f}, the median of {len(sizes) - 1})"
    severity = section.severity if share < section.least_size else Severity.P3
    hint = "look what left or came: tables that shrank, a folder that is not there; verification compares content."
    return _judged(SIZE, kept, severity, why, hint, bytes=newest, usual_bytes=usual, share=round(share, 4))


def _size(candidate: Candidate, manifest: Manifest) -> int:
    """What it stands for: a copy of files holds an inventory, and names how much that is."""
    return int(manifest.facts.get("source_bytes") or candidate.bytes)


def wal(connection: Connection, severity: Severity, most: timedelta) -> Outcome:
    """
    ``backup_wal``: how long the log has not reached the archive, for engines that restore to a point in time.

    :param most: the loss that is allowed: ``recovery.rpo``.
    """
    row = connection.execute(query("wal_age")).fetchone()
    assert row is not None
    why, behind = "", row["behind_bytes"]
    hint = "look at archive_command, its output in the server's log, and archive_timeout."
    if row["mode"] == "off":
        why = "archive_mode is off: nothing can be restored but the base backup itself"
        hint = "set archive_mode and archive_command; the first takes a restart."
    elif (behind is None or behind > HOUSEKEEPING) and row["age_s"] > most.total_seconds():
        amount = "all of the log" if behind is None else f"{behind:,} bytes of the log"
        why = f"{amount} wait to be archived, nothing was for {length(timedelta(seconds=row['age_s']))}" + (
            f" (allowed {length(most)})"
        )
    finding = [Finding(check=WAL, severity=severity, summary=why, hint=hint)] if why else []
    facts = {key: row[key] for key in ("mode", "last_archived_wal", "age_s", "behind_bytes")}
    return judged(WAL, severity, finding, **facts)


def client(server_version: int, programs: Sequence[Programs], severity: Severity) -> Outcome:
    """
    ``backup_client``: whether this worker's pg_dump is as new as the server; an older one cannot dump it.

    :param programs: those that are installed, the newest first.
    """
    newest, major = programs[0] if programs else None, server_version // 10_000
    why = ""
    if newest is None:
        why = f"there is no pg_dump on this worker; the server is version {major}"
    elif newest.major < major:
        why = f"the newest pg_dump on this worker is {newest.text}, older than the server, version {major}"
    hint = f"install postgresql-client-{major} on the workers, or name its directory in `postgres_programs`."
    finding = [Finding(check=CLIENT, severity=severity, summary=why, hint=hint)] if why else []
    return judged(CLIENT, severity, finding, server=server_version, client=newest.text if newest else None)


def _judged(
    check: str, kept: Kept, severity: Severity, why: str, hint: str, newest: Candidate | None = None, **facts: Any
) -> Outcome:
    found = [Finding(check=check, object=kept.kind, severity=severity, summary=why, hint=hint)] if why else []
    if newest is not None:
        facts |= {"newest": newest.id, "at": newest.at.isoformat()}
    return judged(check, severity, found, object=kept.kind, backups=len(kept.candidates), **facts)
