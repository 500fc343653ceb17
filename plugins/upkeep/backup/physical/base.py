"""
A base backup: pg_basebackup's archive, streamed through compression and encryption into S3.

It passes by as it is made: each file is compared with the server's list of files, so that what is stored is what the
server sent; nothing of it touches the worker's disk. The log that the copy itself needs travels inside it, so that it
can be recovered even where nothing else of the log was kept.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from upkeep.backup import compression, encryption, manifest, reading
from upkeep.backup.dump import Made
from upkeep.backup.faults import Fault
from upkeep.backup.physical import members, source
from upkeep.backup.physical.source import BASES, Job, Source, SourceError
from upkeep.backup.programs import ProgramError, Programs, stream, without_secrets
from upkeep.backup.store import Store, StoreError, Written

log = logging.getLogger(__name__)

BASE, FILE_LIST = "base", "file_list"
FILES = {BASE: "base.tar.gz", FILE_LIST: "backup_manifest.gz"}
ENGINE = "basebackup"
Checkpoint = Literal["fast", "spread"]


@dataclass(frozen=True)
class _Sent:
    written: list[tuple[str, Written]]
    files: dict[str, object]


def take(
    job: Job,
    choose: Callable[[int], Programs],
    *,
    checkpoint: Checkpoint = "spread",
    since: manifest.Manifest | None = None,
) -> Made:
    """
    Make one base backup. It counts when this returns; whatever fails on the way leaves no manifest.

    :param choose: the client programs for a server's version.
    :param checkpoint: ``spread`` begins when the server's next checkpoint is through, ``fast`` makes it hurry.
    :param since: an earlier base backup: only what changed since is copied (PostgreSQL 17 and newer).
    :raises UpkeepError: a program, the store, or a check of what was sent failed.
    :raises psycopg.Error: the server failed.
    """
    id, started = manifest.new_id(), datetime.now(UTC)
    prefix = job.prefix + BASES
    try:
        with source.session(job.conninfo) as connection:
            found = source.look(connection)
            refuse(found, since)
            programs = choose(found.version)
            log.info(
                "base backup %s: %.1f MB of all databases, by pg_basebackup %s%s",
                id, found.source_bytes / 1e6, programs.text, f", what changed since {since.id}" if since else "",
            )  # fmt: skip
            with source.reserved(connection):
                sent = _send(job, id, programs, checkpoint, since)
        facts: dict[str, str | int | float | bool | None] = {"source_bytes": found.source_bytes}
        if since is not None:
            facts["base"] = since.id
        backup = manifest.Manifest(
            id=id,
            platform=job.platform,
            kind="cluster",
            engine=ENGINE,
            started=started,
            finished=datetime.now(UTC),
            objects=objects(sent.written),
            compression="gzip",
            encryption=manifest.Encryption(method=job.key.method, key_id=job.key.id) if job.key else None,
            cluster=_cluster(found, programs, sent.files),
            facts=facts,
            dag_id=job.dag_id,
            run_id=job.run_id,
            tool=tool(),
        )
        return Made(backup, manifest.commit(job.store, prefix, backup))
    except BaseException:
        forget(job.store, manifest.folder(prefix, id))
        raise


def refuse(found: Source, since: manifest.Manifest | None) -> None:
    """:raises SourceError: what is asked for cannot be made of this server."""
    if found.tablespaces:
        raise SourceError(
            f"the cluster has {found.tablespaces} tablespaces of its own, and only one can be streamed",
            hint="move them into pg_default, or use pgBackRest; a dump (backup.database) is made all the same.",
        )
    if since is not None and not found.summarize:
        raise SourceError(
            "the server keeps no summaries of its log, without which nobody knows what changed",
            hint="set summarize_wal = on (PostgreSQL 17 and newer; takes a reload), or full_every = 0.",
        )


def _send(job: Job, id: str, programs: Programs, checkpoint: Checkpoint, since: manifest.Manifest | None) -> _Sent:
    scanner = members.Scanner([members.FILE_LIST])
    with contextlib.ExitStack() as stack:
        earlier = stack.enter_context(_file_list(job, since)) if since is not None else None
        sent = stream(
            [
                *(programs("pg_basebackup"), "--pgdata=-", "--format=tar", "--wal-method=fetch", "--no-password"),
                *(f"--checkpoint={checkpoint}", "--manifest-checksums=SHA256", f"--label=upkeep {id}"),
                *([f"--incremental={earlier}"] if earlier else []),
                f"--dbname={without_secrets(job.conninfo)}",
            ],
            programs.environment(job.conninfo),
        )
        written = write(job, BASES, id, BASE, FILES[BASE], scanner.watch(sent))
    files = members.listed(scanner.members)
    faults = [files] if isinstance(files, Fault) else members.compare(scanner.members, files)
    if isinstance(files, Fault) or faults:
        raise ProgramError(
            f"pg_basebackup ended well, and what it sent is not whole: {faults[0].said}",
            hint="run the task again; when it happens twice, look at the worker's memory and network.",
        )
    content = scanner.members[members.FILE_LIST].head
    written += write(job, BASES, id, FILE_LIST, FILES[FILE_LIST], [content])
    return _Sent(written, files)


@contextlib.contextmanager
def _file_list(job: Job, since: manifest.Manifest) -> Iterator[Path]:
    """The server's list of files of an earlier base backup, as a file that pg_basebackup can read."""
    raw = reading.Objects(job.store, since.role(FILE_LIST))
    content = b"".join(reading.plain(raw, since, job.key, FILE_LIST))
    if raw.faults:
        raise SourceError(f"{since.id}: {raw.faults[0].said}", hint="make a full base backup: set full_every = 0 once.")
    with tempfile.NamedTemporaryFile(prefix="upkeep-file-list-") as file:
        file.write(content)
        file.flush()
        yield Path(file.name)


def _cluster(found: Source, programs: Programs, files: dict[str, object]) -> manifest.Cluster:
    ranges = files["WAL-Ranges"]
    assert isinstance(ranges, list)
    return manifest.Cluster(
        **described(found, programs),
        timeline=ranges[-1]["Timeline"],
        begin=ranges[0]["Start-LSN"],
        end=ranges[-1]["End-LSN"],
        until=found.at,
    )


# -- what a stretch of the log shares ----------------------------------------------------------------------


def described(found: Source, programs: Programs) -> dict[str, object]:
    """What a manifest says about the cluster itself."""
    return {
        "system_identifier": found.system_identifier,
        "server_version": found.version,
        "client_version": programs.text,
        "superuser": found.superuser,
        "database": found.database,
        "segment_bytes": found.segment_bytes,
        "source_bytes": found.source_bytes,
    }


def write(job: Job, below: str, id: str, role: str, name: str, pieces: Iterable[bytes]) -> list[tuple[str, Written]]:
    """Compress, encrypt and upload what ``pieces`` yields."""
    packed = compression.compress(pieces)
    if job.key is not None:
        packed = encryption.encrypt(packed, job.key, f"{id}/{role}")
    key = manifest.folder(job.prefix + below, id) + name
    return [(role, one) for one in job.store.write(key, packed)]


def objects(written: Sequence[tuple[str, Written]]) -> tuple[manifest.Object, ...]:
    return tuple(manifest.Object(role=role, key=one.key, bytes=one.bytes, sha256=one.sha256) for role, one in written)


def forget(store: Store, place: str) -> None:
    """What was written for a backup that failed; what a dead worker leaves, the janitor finds."""
    with contextlib.suppress(StoreError):
        for one in list(store.objects(place)):
            store.delete(one.key)


def tool() -> str:
    from importlib import metadata

    try:
        return f"upkeep {metadata.version('upkeep')}"
    except metadata.PackageNotFoundError:
        return "upkeep"


def full_is_due(bases: Sequence[manifest.Manifest], every: float, now: datetime) -> bool:
    """
    Whether the next base backup is a full one.

    :param bases: all that count. :param every: seconds between two full ones; 0 for full ones alone.
    """
    full = [one.finished for one in bases if not one.facts.get("base")]
    return not every or not full or (now - max(full)).total_seconds() >= every
