"""One copy of the application's files: look, hold it against yesterday, copy what is new, write the manifest last."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import random
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import IO

from upkeep.backup import manifest as manifests
from upkeep.backup import records
from upkeep.backup.files import inventory
from upkeep.backup.files.copying import Copier, digest, look
from upkeep.backup.files.inventory import Entry
from upkeep.backup.manifest import Manifest, Object
from upkeep.backup.store import StoreError
from upkeep.ledger import Ledger, Run

log = logging.getLogger(__name__)

WORKERS = 8
"""Files on their way at once; each holds at most a few parts."""

WAITING = 4 * WORKERS
FEW = 3
"""So few deleted files are never a storm."""

SAMPLES, SAMPLED_BYTES = 20, 64 * 1024 * 1024
"""So many copies, old ones as well, are read back and compared with the files each night."""


@dataclass(frozen=True, kw_only=True)
class Job:
    platform: str
    copier: Copier
    prefix: str
    """Of this kind, in the bucket of backups."""

    source_prefix: str = ""
    most_deleted: float = 0.05
    approved: int = 0
    """So many deleted files a person has said yes to."""

    dag_id: str = ""
    run_id: str = ""
    tool: str = ""


@dataclass
class Look:
    """What is there now, against the backup before."""

    files: int = 0
    bytes: int = 0
    before: int = 0
    """Files in the backup before."""

    before_id: str = ""
    new: int = 0
    changed: int = 0
    new_bytes: int = 0
    """Of new and changed ones."""

    deleted: int = 0
    remade: int = 0
    """Copies that were gone from the bucket of backups, of files that have not changed."""

    examples: list[str] = field(default_factory=list)
    """Of deleted ones."""

    deleted_digest: str = ""
    """SHA-256 over the keys of the deleted ones."""

    def share_deleted(self) -> float:
        return self.deleted / self.before if self.before else 0.0


@dataclass
class Counted:
    """What was copied."""

    files: int = 0
    bytes: int = 0
    """Of all files that the backup holds."""

    copied: int = 0
    copied_bytes: int = 0
    gone: int = 0
    """Files that went between the look and the copy."""


@dataclass(frozen=True)
class Made:
    """A backup that counts."""

    manifest: Manifest
    manifest_sha256: str
    seen: Look
    counted: Counted
    sampled: int
    differ: list[str]
    """Copies in the sample that are not what the file is."""


@dataclass(frozen=True)
class Done:
    """What a run came to."""

    seen: Look
    plan: str
    """Digest of what was stored before anything was copied."""

    stopped: str = ""
    """Why nothing was copied: too many files have gone."""

    made: Made | None = None
    """None when it was stopped, or a dry run."""


def carry_out(job: Job, ledger: Ledger, run: Run, *, dry_run: bool = False) -> Done:
    """
    Look, store the plan, copy, and put the backup on record.

    :raises StoreError: a bucket is away, or a file could not be copied; then there is no new backup.
    """
    with looked(job) as (seen, listed):
        stopped = storm(job, seen)
        rows = [{"kind": "files", "verdict": "stop" if stopped else "copy", "why": stopped, **asdict(seen)}]
        stored = ledger.plan(run, "backup", rows, dry_run=dry_run)
        if stopped or dry_run:
            return Done(seen, stored.digest, stopped)
        with ledger.action(run, "backup", "copy", "files", plan=stored, before=asdict(seen)) as action:
            made = copy(job, seen, listed)
            records.remember(ledger, job.copier.target.bucket, job.prefix, made.manifest, sha256=made.manifest_sha256)
            action.after = {"id": made.manifest.id, **asdict(made.counted), "sampled": made.sampled}
        return Done(seen, stored.digest, made=made)


@contextlib.contextmanager
def looked(job: Job) -> Iterator[tuple[Look, IO[bytes]]]:
    """
    What is there, what is new, what has gone; nothing is written but a list on the worker's disk, 100 bytes a file.

    :raises StoreError: a bucket cannot be listed, or not in the order of keys.
    """
    seen = Look()
    before = inventory.newest(job.copier.target, job.prefix, job.platform)
    earlier = iter(()) if before is None else inventory.entries(job.copier.target, before)
    seen.before_id = before.id if before else ""
    # Hashes, not names: eight bytes a file. Two names with one hash would be one file in 10^12 not copied again.
    present = {hash((one.key, one.bytes)) for one in job.copier.target.objects(inventory.objects(job.prefix))}
    gone = hashlib.sha256()
    with tempfile.TemporaryFile(prefix="upkeep-files-") as listed:
        for now, old in _side_by_side(_listing(job), earlier):
            seen.before += old is not None
            if now is None:
                assert old is not None
                seen.deleted += 1
                gone.update(old.key.encode() + b"\0")
                if len(seen.examples) < 5:
                    seen.examples.append(old.key)
                continue
            seen.files += 1
            seen.bytes += now.bytes
            needed = hash((now.copy, now.bytes)) not in present
            if old is None or old.copy != now.copy:
                seen.new += old is None
                seen.changed += old is not None
                seen.new_bytes += now.bytes
            else:
                seen.remade += needed
            listed.write(json.dumps([needed, asdict(now)]).encode() + b"\n")
        seen.deleted_digest = gone.hexdigest()
        listed.seek(0)
        yield seen, listed


def storm(job: Job, seen: Look) -> str:
    """Why nothing is copied until a person has looked; empty when nothing is odd."""
    if seen.deleted <= max(FEW, job.approved) or seen.share_deleted() <= job.most_deleted:
        return ""
    return (
        f"{seen.deleted:,} of {seen.before:,} files ({seen.share_deleted():.1%}) have gone from"
        f" {job.copier.source.url(job.source_prefix)} since backup {seen.before_id}, allowed are {job.most_deleted:.0%}"
    )


def copy(job: Job, seen: Look, listed: IO[bytes]) -> Made:
    """
    Copy what is not there yet, and commit. Killed anywhere, the next run copies what is missing.

    :raises StoreError: a file could not be copied; then there is no new backup.
    """
    id, started = manifests.new_id(), datetime.now(UTC)
    counted, samples = Counted(), _Samples(random.Random(id))

    def entries() -> Iterator[Entry]:
        for entry, copied in _copied(job, listed):
            if entry is None:
                counted.gone += 1
                continue
            counted.files += 1
            counted.bytes += entry.bytes
            counted.copied += copied
            counted.copied_bytes += entry.bytes * copied
            samples.offer(entry)
            yield entry

    place = manifests.folder(job.prefix, id)
    written = job.copier.target.write(place + inventory.FILE, inventory.packed(entries()))
    sampled, differ = samples.compare(job.copier)
    manifest = Manifest(
        id=id,
        platform=job.platform,
        kind="files",
        engine="copy",
        started=started,
        finished=datetime.now(UTC),
        objects=tuple(
            Object(role=inventory.INVENTORY, key=one.key, bytes=one.bytes, sha256=one.sha256) for one in written
        ),
        compression="gzip",
        facts={
            "source": job.copier.source.url(job.source_prefix),
            "source_bytes": counted.bytes,
            "files": counted.files,
            "copied": counted.copied,
            "copied_bytes": counted.copied_bytes,
            "new": seen.new,
            "changed": seen.changed,
            "deleted": seen.deleted,
            "before": seen.before_id,
        },
        dag_id=job.dag_id,
        run_id=job.run_id,
        tool=job.tool,
    )
    return Made(manifest, manifests.commit(job.copier.target, job.prefix, manifest), seen, counted, sampled, differ)


def _listing(job: Job) -> Iterator[Entry]:
    last = b""
    for stored in job.copier.source.objects(job.source_prefix):
        if (key := stored.key.encode()) <= last:
            raise StoreError(
                f"{job.copier.source.url(stored.key)}: listed after {last.decode()!r}: not in the order of keys",
                hint="S3 lists in the order of bytes; directory buckets do not, and cannot be used.",
            )
        last = key
        # A name that ends with / is what consoles make for an empty folder.
        yield Entry.of(stored, job.prefix)


def _side_by_side(now: Iterator[Entry], earlier: Iterator[Entry]) -> Iterator[tuple[Entry | None, Entry | None]]:
    """Both in the order of keys; what is on one side only stands beside None."""
    left, right = next(now, None), next(earlier, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left.key.encode() < right.key.encode()):
            yield left, None
            left = next(now, None)
        elif left is None or right.key.encode() < left.key.encode():
            yield None, right
            right = next(earlier, None)
        else:
            yield left, right
            left, right = next(now, None), next(earlier, None)


def _copied(job: Job, listed: IO[bytes]) -> Iterator[tuple[Entry | None, bool]]:
    """Each listed file and whether it was copied now, in order; at most ``WAITING`` are held."""
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="copy")
    try:
        waiting: deque[tuple[Entry | Future[Entry | None], bool]] = deque()
        for line in listed:
            needed, fields = json.loads(line)
            entry = Entry(**fields)
            waiting.append((pool.submit(job.copier.copy, entry), True) if needed else (entry, False))
            while len(waiting) > WAITING:
                yield _done(waiting.popleft())
        while waiting:
            yield _done(waiting.popleft())
    finally:
        # Whatever went wrong, the rest is not copied for nothing.
        pool.shutdown(wait=True, cancel_futures=True)


def _done(one: tuple[Entry | Future[Entry | None], bool]) -> tuple[Entry | None, bool]:
    found, copied = one
    return (found.result() if isinstance(found, Future) else found), copied


class _Samples:
    """A few files of all, each as likely as any other."""

    def __init__(self, dice: random.Random) -> None:
        self.dice, self.seen = dice, 0
        self.chosen: list[Entry] = []

    def offer(self, entry: Entry) -> None:
        self.seen += 1
        if len(self.chosen) < SAMPLES:
            self.chosen.append(entry)
        elif (place := self.dice.randrange(self.seen)) < SAMPLES:
            self.chosen[place] = entry

    def compare(self, copier: Copier) -> tuple[int, list[str]]:
        """How many copies were read back, and which of them are not what the file is."""
        room, compared, differ = SAMPLED_BYTES, 0, []
        for entry in self.chosen:
            room -= entry.bytes
            if room < 0 and compared:
                continue
            theirs = digest(copier.source, entry.key)
            now = look(copier.source, entry.key)
            if theirs is None or now is None or (now.etag, now.bytes) != (entry.etag, entry.bytes):
                continue  # it changed meanwhile
            compared += 1
            if digest(copier.target, entry.copy) != theirs:
                differ.append(entry.copy)
        return compared, differ
