"""Which stretches of the log no base backup needs any more, and their deletion."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from upkeep.backup import manifest
from upkeep.backup.manifest import Cluster, Manifest
from upkeep.backup.physical import archive
from upkeep.backup.physical.archive import Archive, cluster
from upkeep.backup.physical.lsn import number
from upkeep.backup.physical.source import LOG
from upkeep.backup.retention.choose import moment
from upkeep.backup.retention.deleting import delete
from upkeep.backup.store import LockedError, Store, StoreError
from upkeep.errors import StrainError
from upkeep.ledger import Ledger, Run

log = logging.getLogger(__name__)


@dataclass
class Expired:
    """What a run saw and did."""

    kept: int
    going: list[str]
    """Stretches that no base backup needs."""

    why: str
    """In words: since when the log is kept, or why nothing goes."""

    deleted: list[str] = field(default_factory=list)
    bytes: int = 0
    deferred: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    swept: list[str] = field(default_factory=list)


def choose(found: Archive) -> tuple[list[Manifest], str]:
    """
    What may go, and why; nothing where it is not known what each base backup needs.

    A stretch goes when it ended before every base backup that is kept began, by its place in the log and by the clock.
    """
    if not found.bases:
        return [], "there is no base backup: all of the log stays"
    if found.unread:
        return [], f"the manifest of {min(found.unread)} cannot be read, so nobody knows what it needs: all stays"
    going = [one for one in found.log if all(_before(one, base) for base in found.bases)]
    oldest = min(found.bases, key=lambda one: one.started)
    return going, f"base backup {oldest.id}, the oldest, needs the log since {moment(oldest.started)}"


def _before(stretch: Manifest, base: Manifest) -> bool:
    old, needed = cluster(stretch), cluster(base)
    if stretch.finished >= base.started:
        return False
    # Whatever another cluster wrote, or a timeline that was left, leads nowhere from this base backup.
    if old.system_identifier != needed.system_identifier or old.timeline < needed.timeline:
        return True
    return number(old.end) <= _first(needed)


def _first(needed: Cluster) -> int:
    """The beginning of the segment with which its recovery begins."""
    begin = number(needed.begin)
    return begin - begin % needed.segment_bytes


def carry_out(
    run: Run, ledger: Ledger, store: Store, prefix: str, *, unfinished: timedelta, dry_run: bool = False
) -> Expired:
    """
    Delete what no base backup needs; the plan is stored first. Killed anywhere, it is run again and goes on.

    :param unfinished: so long after its last object came, a stretch without a manifest is nobody's any more.
    :raises StrainError: another run is at it. :raises StoreError: the bucket cannot be listed.
    """
    with ledger.exclusive(f"{run.platform}/backup_log_retention") as mine:
        if not mine:
            raise StrainError("another run deletes old log", hint="it is tried again when that one is through.")
        found = archive.look(store, prefix, run.platform)
        going, why = choose(found)
        abandoned = list(_abandoned(store, prefix, unfinished))
        done = Expired(len(found.log) - len(going), [one.id for one in going], why)
        plan = ledger.plan(run, "backup", _rows(going, abandoned, why), dry_run=dry_run)
        log.info("%d stretches of the log stay, %d go: %s", done.kept, len(going), why)
        if dry_run or not (going or abandoned):
            return done
        before = {"stretches": len(going), "bytes": sum(one.size for one in going), "why": why}
        with ledger.action(run, "backup", "delete", "cluster/log", plan=plan, before=before) as action:
            for id in done.going:
                _delete(store, prefix, id, done, done.deleted)
            for id in abandoned:
                _delete(store, prefix, id, done, done.swept)
            action.after = {"stretches": len(done.deleted), "bytes": done.bytes, "swept": len(done.swept)}
    return done


def _rows(going: Sequence[Manifest], abandoned: Sequence[str], why: str) -> list[dict[str, Any]]:
    rows = [
        {
            "kind": "cluster log",
            "id": one.id,
            "bytes": one.size,
            "end": cluster(one).end,
            "verdict": "delete",
            "why": why,
        }
        for one in going
    ]
    never = "it never became a stretch, and nobody is at it"
    return rows + [{"kind": "cluster log", "id": id, "verdict": "sweep", "why": never} for id in abandoned]


def _abandoned(store: Store, prefix: str, unfinished: timedelta) -> Iterator[str]:
    """Folders without a manifest that nobody touched for long: what dead workers left."""
    for id, objects in manifest.ids(store, prefix + LOG):
        if any(one.key.endswith(f"/{manifest.NAME}") for one in objects):
            continue
        if datetime.now(UTC) - max(one.modified for one in objects) > unfinished:
            yield id


def _delete(store: Store, prefix: str, id: str, done: Expired, gone: list[str]) -> None:
    try:
        done.bytes += delete(store, prefix + LOG, id).bytes
        gone.append(id)
    except LockedError as locked:
        done.deferred[id] = locked.message
    except StoreError as trouble:
        log.exception("stretch %s", id)
        done.failed[id] = trouble.message
