"""One backup of the configuration: collect, write, read back, and only then write the manifest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from upkeep.backup import compression, encryption, records
from upkeep.backup import manifest as manifests
from upkeep.backup.configuration import archive
from upkeep.backup.configuration.archive import ARCHIVE, FILES, INDEX, Line, Tar
from upkeep.backup.configuration.collect import Member, Notes
from upkeep.backup.encryption import Key
from upkeep.backup.manifest import Manifest, ManifestError, Object
from upkeep.backup.store import Store
from upkeep.errors import UpkeepError
from upkeep.ledger import Ledger, Run


class ArchiveError(UpkeepError):
    """What was read back is not what was archived."""


@dataclass(frozen=True, kw_only=True)
class Job:
    platform: str
    store: Store
    prefix: str
    key: Key | None = None
    """None writes it readable for whoever can read the bucket, without secrets."""

    dag_id: str = ""
    run_id: str = ""


@dataclass
class Changes:
    """Against the backup before."""

    before: str = ""
    """Its id; empty when there is none that can be read."""

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Made:
    """A backup that counts."""

    manifest: Manifest
    manifest_sha256: str
    digest: str
    """Of the tar; the same for the same content."""

    index: list[Line]
    changes: Changes


def carry_out(job: Job, ledger: Ledger, run: Run, members: Iterable[Member], notes: Notes) -> Made:
    """
    Make one backup, on the record. Killed anywhere before its manifest, it is none, and the next run makes another.

    :param notes: filled while ``members`` are taken; an archive that is not whole is kept, and never counts as proved.
    :raises UpkeepError: the store failed, or what arrived differs. :raises tarfile.TarError: it is no tar any more.
    """
    with ledger.action(run, "backup", "archive", "configuration", before={"prefix": job.prefix}) as action:
        made = make(job, members)
        records.remember(ledger, job.store.bucket, job.prefix, made.manifest, sha256=made.manifest_sha256)
        if not notes.missing:
            records.proved(ledger, job.platform, made.manifest.id, members=len(made.index), digest=made.digest)
        action.after = {"id": made.manifest.id, "digest": made.digest, **asdict(made.changes)}
        for name in ("added", "removed", "changed"):
            action.after[name] = action.after[name][:20]
    return made


def make(job: Job, members: Iterable[Member]) -> Made:
    """Write, read back, commit. :raises UpkeepError: as ``carry_out``."""
    id, started = manifests.new_id(), datetime.now(UTC)
    tar = Tar(members)
    objects = []
    try:
        for role, pieces in ((ARCHIVE, iter(tar)), (INDEX, tar.lines())):
            objects += [
                Object(role=role, key=one.key, bytes=one.bytes, sha256=one.sha256)
                for one in job.store.write(
                    manifests.folder(job.prefix, id) + FILES[role], _packed(job, id, role, pieces)
                )
            ]
        changes = compare(tar.index, _before(job))
        manifest = Manifest(
            id=id,
            platform=job.platform,
            kind="configuration",
            engine="tar",
            started=started,
            finished=datetime.now(UTC),
            objects=tuple(objects),
            compression="gzip",
            encryption=manifests.Encryption(method=job.key.method, key_id=job.key.id) if job.key else None,
            facts={
                "digest": tar.digest.hexdigest(),
                "members": len(tar.index),
                "source_bytes": sum(one.bytes for one in tar.index),
                "hidden": sum(one.hidden for one in tar.index),
                "before": changes.before,
            },
            dag_id=job.dag_id,
            run_id=job.run_id,
        )
        if faults := archive.read_back(job.store, manifest, job.key, tar.index):
            raise ArchiveError(
                f"{job.store.url(objects[0].key)}: {'; '.join(fault.said for fault in faults[:3])}",
                hint="the store loses or mixes data; look at it, then run the task again.",
            )
        return Made(
            manifest,
            manifests.commit(job.store, job.prefix, manifest),
            tar.digest.hexdigest(),
            tar.index,
            changes,
        )
    except BaseException:
        _forget(job, id)
        raise


def _packed(job: Job, id: str, role: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
    packed = compression.compress(pieces)
    return encryption.encrypt(packed, job.key, f"{id}/{role}") if job.key else packed


def _forget(job: Job, id: str) -> None:
    """What a try that failed leaves would only be swept in a week; its manifest, if any, first."""
    place = manifests.folder(job.prefix, id)
    with contextlib.suppress(UpkeepError):
        for key in sorted((one.key for one in job.store.objects(place)), key=lambda key: key != place + manifests.NAME):
            job.store.delete(key)


def _before(job: Job) -> tuple[str, list[Line]]:
    """The newest backup whose index can be read with this key; it is only looked at to say what has changed."""
    found = []
    for id in manifests.committed(job.store, job.prefix):
        with contextlib.suppress(ManifestError):
            found.append(manifests.read(job.store, job.prefix, id, platform=job.platform))
    for manifest in sorted(found, key=lambda one: one.finished, reverse=True)[:3]:
        with contextlib.suppress(UpkeepError, ValueError, TypeError):
            return manifest.id, archive.index(job.store, manifest, job.key)
    return "", []


def compare(index: Iterable[Line], before: tuple[str, list[Line]]) -> Changes:
    """What is new, gone and different, by name."""
    id, lines = before
    if not id:
        return Changes()
    old = {one.name: one for one in lines}
    changes = Changes(id)
    for one in index:
        was = old.pop(one.name, None)
        if was is None:
            changes.added.append(one.name)
        elif was != one:
            changes.changed.append(one.name)
    changes.removed = sorted(old)
    return changes
