"""
The engine ``dump``: pg_dump, and digests of the very snapshot that it dumps.

One session exports a snapshot; pg_dump and the sessions that count and digest each table all see exactly that. The
archive streams through compression and encryption into S3; nothing of it touches the worker's disk.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from upkeep.backup import compression, content, encryption, manifest
from upkeep.backup.encryption import Key
from upkeep.backup.programs import Programs, run, stream, without_secrets
from upkeep.backup.store import Store, StoreError, Written
from upkeep.postgres.session import Connection, milliseconds

log = logging.getLogger(__name__)

ARCHIVE, ROLES = "archive", "roles"
FILES = {ARCHIVE: "database.dump", ROLES: "roles.sql"}
LEVEL = 1
"""Of zstd: 14 % smaller than gzip's default at a third of its time; higher ones cost more than sending the rest."""


@dataclass(frozen=True)
class Job:
    """What to dump, and where to."""

    platform: str
    conninfo: str
    """As the maintenance role."""

    store: Store
    prefix: str
    key: Key | None = None
    """None leaves the backup readable for whoever can read the bucket."""

    dag_id: str = ""
    run_id: str = ""
    portable: bool = False
    """Digest every row as text, for a restore into another major version."""


@dataclass(frozen=True)
class Made:
    """A backup that counts."""

    manifest: manifest.Manifest
    manifest_sha256: str


def dump(job: Job, choose: Callable[[int], Programs]) -> Made:
    """
    Make one backup. It counts when this returns; whatever fails on the way leaves no manifest.

    :param choose: the client programs for a server's version.
    :raises UpkeepError: a program, the store, or a check of what arrived failed.
    :raises psycopg.Error: the database failed.
    """
    id, started = manifest.new_id(), datetime.now(UTC)
    try:
        with content.session(job.conninfo) as connection:
            made, database, packed = _dump(job, id, connection, choose)
        backup = manifest.Manifest(
            id=id,
            platform=job.platform,
            kind="database",
            engine="dump",
            started=started,
            finished=datetime.now(UTC),
            objects=tuple(
                manifest.Object(role=role, key=one.key, bytes=one.bytes, sha256=one.sha256) for role, one in made
            ),
            compression="archive" if packed else "gzip",
            encryption=manifest.Encryption(method=job.key.method, key_id=job.key.id) if job.key else None,
            database=database,
            dag_id=job.dag_id,
            run_id=job.run_id,
            tool=f"upkeep {_version()}",
        )
        return Made(backup, manifest.commit(job.store, job.prefix, backup))
    except BaseException:
        _forget(job.store, manifest.folder(job.prefix, id))
        raise


def _dump(
    job: Job, id: str, connection: Connection, choose: Callable[[int], Programs]
) -> tuple[list[tuple[str, Written]], manifest.Database, bool]:
    who = connection.execute(content.query("identity")).fetchone()
    assert who is not None
    programs = choose(who["version"])
    snapshot = content.exported(connection)
    found = content.tables(connection, portable=job.portable)
    extensions = content.extensions(connection)
    before = content.sequences(connection)
    log.info(
        "backup %s: %d tables of %s, %.1f MB with indexes, by pg_dump %s",
        id, len(found), who["name"], who["source_bytes"] / 1e6, programs.text,
    )  # fmt: skip
    with content.Counting(job.conninfo, snapshot, found) as counting:
        packed = programs.packs_zstd()
        archive = _archive(job, programs, snapshot, packed)
        made = [
            (ARCHIVE, one) for one in _write(job, id, ARCHIVE, archive if packed else compression.compress(archive))
        ]
        roles = _roles(job, programs)
        made += [(ROLES, one) for one in _write(job, id, ROLES, roles if packed else compression.compress(roles))]
        tables = counting.result()
    database = manifest.Database(
        name=who["name"],
        server_version=who["version"],
        client_version=programs.text,
        system_identifier=who["system_identifier"],
        wal_position=who["wal_position"],
        source_bytes=who["source_bytes"],
        encoding=who["encoding"],
        locale=who["locale"],
        tables=tables,
        sequences=_sequences(before, content.sequences(connection)),
        extensions=extensions,
    )
    return made, database, packed


def _sequences(before: content.Values, after: content.Values) -> tuple[manifest.Sequence, ...]:
    """What the dump may have read of each: it looked at some time in between."""
    return tuple(
        manifest.Sequence(
            schema_name=name[0], name=name[1], before=value, after=after.get(name, (value, called))[0], is_called=called
        )
        for name, (value, called) in sorted(before.items())
    )


def _archive(job: Job, programs: Programs, snapshot: str, packed: bool) -> Iterator[bytes]:
    return stream(
        [
            *(programs("pg_dump"), "--format=custom", f"--compress={f'zstd:{LEVEL}' if packed else 0}"),
            *(f"--snapshot={snapshot}", f"--lock-wait-timeout={milliseconds(content.LOCKED)}", "--no-password"),
            f"--dbname={without_secrets(job.conninfo)}",
        ],
        programs.environment(job.conninfo),
    )


def _roles(job: Job, programs: Programs) -> Iterable[bytes]:
    """Roles, memberships, tablespaces; no passwords: only a superuser may read those, and nobody should keep them."""
    said = run(
        [
            *(programs("pg_dumpall"), "--globals-only", "--no-role-passwords", "--no-password"),
            f"--dbname={without_secrets(job.conninfo)}",
        ],
        programs.environment(job.conninfo),
    )
    yield said.encode()


def _write(job: Job, id: str, role: str, pieces: Iterable[bytes]) -> Any:
    if job.key is not None:
        pieces = encryption.encrypt(pieces, job.key, f"{id}/{role}")
    return job.store.write(manifest.folder(job.prefix, id) + FILES[role], pieces)


def _forget(store: Store, place: str) -> None:
    """What was written for a backup that failed; what a dead worker leaves, the janitor finds."""
    with contextlib.suppress(StoreError):
        for one in list(store.objects(place)):
            store.delete(one.key)


def _version() -> str:
    try:
        return metadata.version("upkeep")
    except metadata.PackageNotFoundError:
        return ""
