"""Which backup a restore takes, how good it is, and how much was written since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from upkeep.backup import manifest, records
from upkeep.backup.manifest import Manifest
from upkeep.backup.restore.form import Asked
from upkeep.backup.store import Store
from upkeep.errors import UpkeepError
from upkeep.ledger import Ledger


class RefusedError(UpkeepError):
    """Something speaks against it; trying again does not help before that is mended."""


@dataclass(frozen=True)
class Chosen:
    """One backup."""

    manifest: Manifest
    bytes_state: str
    content_state: str
    """``verified`` or ``unchecked``, as the ledger knows it."""

    asked_at: datetime | None = None
    """The point in time that was asked for."""

    def age(self, now: datetime) -> str:
        """Since its snapshot: ``7 h 12 min``."""
        return length((now - self.manifest.started).total_seconds())

    @property
    def proof(self) -> str:
        if self.content_state == "verified":
            return "content-verified"
        if self.bytes_state == "verified":
            return "its bytes verified, its content not yet"
        return "never verified"

    def sentence(self, now: datetime) -> str:
        """For people: which, how old, how good, what is lost."""
        taken = self.manifest.started.astimezone(UTC)
        said = f"backup {self.manifest.id}, {self.proof}, as the database was on {taken:%d %b %Y %H:%M:%S} UTC"
        if self.asked_at is not None:
            gap = length((self.asked_at - taken).total_seconds())
            said += (
                f"; {self.asked_at:%d %b %Y %H:%M:%S} was asked for: this is the newest dump of before, and what was"
                f" written in the {gap} between them is not in it"
            )
        return f"{said}; everything written since ({self.age(now)}) will be missing"


def choose(ledger: Ledger, store: Store, prefix: str, asked: Asked, *, recovers: bool = False) -> Chosen:
    """
    The backup that is meant.

    :param recovers: whether physical backups can be restored here.
    :raises RefusedError: there is none, or it is known to be broken. :raises ManifestError: its manifest is missing,
        broken, or another platform's. :raises StoreError: the store is away.
    """
    known = records.of(ledger, asked.platform, "database")
    id = asked.backup or _newest(known, asked)
    row = known.get(id, {})
    if row and "broken" in (row["bytes_state"], row["content_state"]):
        reason = row["content_reason"] or row["bytes_reason"]
        raise RefusedError(f"backup {id} is broken: {reason}", hint="choose another one; leave `backup` empty for it.")
    found = manifest.read(store, prefix, id, platform=asked.platform, sha256=str(row["manifest_sha256"]) if row else "")
    if found.kind != "database" or found.database is None:
        hint = "choose a dump of the database; what physical backups recover is not brought back by this form yet."
        raise RefusedError(f"backup {id} is one of {found.kind}", hint=hint)
    if found.engine != "dump" and not recovers:
        raise RefusedError(
            f"backup {id} was made by {found.engine}, and physical backups are not restored by this yet",
            hint="choose a dump; a physical backup is recovered by hand with the programs that made it.",
        )
    state = {name: str(row.get(name, "unchecked")) for name in ("bytes_state", "content_state")}
    return Chosen(found, **state, asked_at=asked.moment)


def _newest(known: Mapping[str, Mapping[str, Any]], asked: Asked) -> str:
    """The newest that is content-verified; for a point in time the newest of before that is not broken."""
    rows = [row for row in known.values() if "broken" not in (row["bytes_state"], row["content_state"])]
    if (moment := asked.moment) is not None:
        before = [row for row in rows if row["started_at"] <= moment]
        if not before:
            oldest = min((row["started_at"] for row in rows), default=None)
            raise RefusedError(
                f"no backup of {asked.platform} is from before {moment:%d %b %Y %H:%M:%S} UTC",
                hint=f"the oldest is from {oldest:%d %b %Y %H:%M:%S} UTC." if oldest else "there is none at all.",
            )
        return str(max(before, key=lambda row: row["started_at"])["id"])
    verified = [row for row in rows if row["content_state"] == "verified"]
    if not verified:
        raise RefusedError(
            f"no backup of {asked.platform} is content-verified ({len(rows)} are on record)",
            hint="run the verification Dag, or name a backup by its id: it is proved before anything is replaced.",
        )
    return str(max(verified, key=lambda row: row["started_at"])["id"])


def length(seconds: float) -> str:
    """``40 s``, ``12 min``, ``7 h 12 min``, ``3 days``."""
    if seconds < 120:
        return f"{max(0, int(seconds))} s"
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} days"
