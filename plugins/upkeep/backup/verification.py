"""Verifying one backup, in two tiers, and what is told about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upkeep.backup import manifest, programs, reading, restoring, scratch
from upkeep.backup.encryption import Key
from upkeep.backup.faults import Fault
from upkeep.backup.manifest import Kind, Manifest, ManifestError
from upkeep.backup.store import Store
from upkeep.errors import SettingsError
from upkeep.findings import Finding, Outcome, Severity, judged, unknown
from upkeep.platforms.database import Query

if TYPE_CHECKING:
    from collections.abc import Iterator

BYTES, CONTENT, SCRATCH = "backup_bytes", "backup_content", "backup_scratch"

HINTS = {
    BYTES: "it cannot be relied on: make another now (trigger the backup Dag), and find out what changed this one.",
    CONTENT: "it cannot be relied on: make another now (trigger the backup Dag); the log of this task has every line.",
}


@dataclass(frozen=True)
class Subject:
    """The backup in question."""

    platform: str
    store: Store
    prefix: str
    id: str
    sha256: str = ""
    """Of its manifest, by the ledger; empty where that does not know it."""

    key: Key | None = None
    severity: Severity = Severity.P1
    programs: Sequence[Path] = ()
    """Directories beside the usual ones."""

    object: Kind = "database"
    """What it is a backup of, for findings."""


@dataclass
class Verdict:
    """What one tier came to."""

    manifest: Manifest | None = None
    faults: list[Fault] = field(default_factory=list)
    unknown: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    began: dict[str, datetime] = field(default_factory=dict)
    """By phase of a restore."""


def read_back(subject: Subject) -> Verdict:
    """The first tier. :raises StoreError: the store is away."""
    verdict = _begin(subject)
    if verdict.manifest is not None:
        used = None
        if verdict.manifest.database is not None:
            used = programs.client(_major(verdict.manifest.database.client_version) * 10_000, subject.programs)
        seen = reading.look(subject.store, verdict.manifest, subject.key, used)
        verdict.faults += seen.faults
        verdict.facts = {"id": subject.id, "bytes": seen.bytes}
    return verdict


def restore(
    subject: Subject,
    parent: Path,
    queries: Sequence[Query],
    made: Callable[[Path], None],
    removed: Callable[[Path], None],
) -> Verdict:
    """
    The second tier, in a throw-away cluster below ``parent``.

    :param made: told of the cluster's directory before there is anything in it, and ``removed`` when it is gone.
    :raises StoreError: the store is away. :raises ScratchError: no cluster could be made here.
    :raises LeftError: it could not be removed.
    """
    verdict = _begin(subject)
    found = verdict.manifest
    if found is None:
        return verdict
    if found.database is None:
        raise SettingsError(f"{subject.id} is no backup of a database", hint="name one of a database.")
    server = programs.server(found.database.server_version // 10_000, subject.programs)
    if server is None:
        major = found.database.server_version // 10_000
        verdict.unknown = (
            f"no PostgreSQL {major} server on this worker to restore into; install postgresql-{major}, or name its"
            " directory in `postgres_programs` of include/upkeep.yaml"
        )
        return verdict
    room = int(found.database.source_bytes * scratch.ROOM) + found.size
    with _place(parent, subject, room, made, removed) as place:
        proof = restoring.prove(subject.store, found, subject.key, server, place, queries)
    verdict.faults += proof.faults
    verdict.began = proof.began
    verdict.facts = {"id": subject.id, "seconds": proof.seconds, **proof.facts}
    return verdict


@contextmanager
def _place(
    parent: Path, subject: Subject, room: int, made: Callable[[Path], None], removed: Callable[[Path], None]
) -> Iterator[Path]:
    with scratch.directory(parent, subject.platform, subject.id, room) as place:
        made(place)
        yield place
    removed(place)


def _begin(subject: Subject) -> Verdict:
    try:
        found = manifest.read(
            subject.store, subject.prefix, subject.id, platform=subject.platform, sha256=subject.sha256
        )
    except ManifestError as wrong:
        return Verdict(faults=[Fault("manifest", wrong.message)], facts={"id": subject.id})
    return Verdict(found, facts={"id": subject.id})


def outcome(check: str, subject: Subject, verdict: Verdict) -> Outcome:
    """One finding for all that is wrong with a backup: it is of no use, whatever it is."""
    if verdict.unknown:
        return unknown(
            check, subject.severity, f"{subject.id}: {verdict.unknown}", object=subject.object, **verdict.facts
        )
    findings = []
    if verdict.faults:
        more = f" (and {len(verdict.faults) - 3} more)" if len(verdict.faults) > 3 else ""
        said = "; ".join(fault.said for fault in verdict.faults[:3])
        findings.append(
            Finding(
                check=check,
                object=subject.object,
                severity=subject.severity,
                summary=f"backup {subject.id} is broken: {said}{more}",
                hint=HINTS[check],
                facts={"id": subject.id, "faults": [[fault.kind, fault.said] for fault in verdict.faults]},
            )
        )
    return judged(check, subject.severity, findings, object=subject.object, **verdict.facts)


def newest(store: Store, prefix: str) -> str:
    """Id of the backup whose manifest came last, by the store's clock; empty when there is none."""
    manifests = [one for one in store.objects(prefix) if one.key.endswith(f"/{manifest.NAME}")]
    last = max(manifests, key=lambda one: (one.modified, one.key), default=None)
    return last.key[len(prefix) :].partition("/")[0] if last else ""


def _major(version: str) -> int:
    return int(version.partition(".")[0])
