"""What retention knows: the committed manifests in the bucket, and the ledger's word on each."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from upkeep.backup import records
from upkeep.backup.manifest import Kind, Manifest, ManifestError, committed, ids, read
from upkeep.backup.retention.choose import Candidate
from upkeep.backup.store import Store, Stored
from upkeep.ledger import Ledger


@dataclass(frozen=True)
class Place:
    """Where backups of one kind of one platform lie."""

    platform: str
    kind: Kind
    store: Store
    prefix: str


@dataclass
class Known:
    """All there is of one kind."""

    candidates: list[Candidate] = field(default_factory=list)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    """Backups whose manifest says nothing that can be believed, and why; nobody deletes them."""

    halves: list[str] = field(default_factory=list)
    """Marked, and without a manifest: whoever was deleting them died on the way. Nothing of them may be left at all."""

    missing: dict[str, datetime] = field(default_factory=dict)
    """On record, never marked, and without a manifest: somebody else deleted them. When they were made."""

    abandoned: list[str] = field(default_factory=list)
    """Never committed and not touched for long: what a killed backup left."""


def look(ledger: Ledger, place: Place, *, now: datetime, abandoned_after: timedelta) -> Known:
    """
    Read every manifest, hold it against the ledger, and tell what is half made or half deleted.

    :param abandoned_after: so long after its last object came, a backup without a manifest is nobody's any more.
    :raises StoreError: the bucket cannot be listed. :raises LedgerError: the ledger is away.
    """
    known = Known()
    on_record = records.of(ledger, place.platform, place.kind)
    with_manifest = set(committed(place.store, place.prefix))
    for id in sorted(with_manifest):
        row = on_record.get(id, {})
        try:
            manifest = read(
                place.store, place.prefix, id, platform=place.platform, sha256=row.get("manifest_sha256") or ""
            )
        except ManifestError as wrong:
            known.unread[id] = wrong.message
            continue
        if manifest.kind != place.kind:
            known.unread[id] = f"it is the manifest of a backup of {manifest.kind}"
            continue
        known.manifests[id] = manifest
        known.candidates.append(
            Candidate(
                id=id,
                at=manifest.finished.astimezone(UTC),
                bytes=manifest.size,
                verified=row.get("content_state") == "verified" and row.get("bytes_state") != "broken",
                broken="broken" in (row.get("content_state"), row.get("bytes_state")),
                base=str(manifest.facts.get("base") or ""),
                held=(row.get("pinned_because") or "nobody said why") if row.get("legal_hold") else "",
                pinned_until=row.get("pinned_until"),
                pin=row.get("pinned_because") or "",
                marked_at=row.get("marked_at"),
                approved=bool(row.get("approved_plan")),
            )
        )
    for id, row in on_record.items():
        if id not in with_manifest and row["marked_at"] is not None:
            known.halves.append(id)
        elif id not in with_manifest:
            known.missing[id] = row["finished_at"]
    for id, objects in ids(place.store, place.prefix):
        if id not in with_manifest and id not in on_record and now - _touched(objects) > abandoned_after:
            known.abandoned.append(id)
    return known


def _touched(objects: list[Stored]) -> datetime:
    return max(one.modified for one in objects)
