"""
What one backup is, in ``manifest.json``: the last object that is written, so a backup without one does not exist.

A backup lives in a folder of its own, ``{prefix}{id}/``; nothing in it is ever written twice.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from upkeep.backup.store import Store, Stored
from upkeep.errors import UpkeepError

NAME = "manifest.json"
FORMAT: Literal[1] = 1
MOST_BYTES = 256 * 1024 * 1024
"""Of a manifest; one of 100,000 tables has 20 MiB."""

Kind = Literal["database", "files", "configuration", "cluster"]
ID = re.compile(r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}$")


class ManifestError(UpkeepError):
    """A manifest is missing, cannot be read, or is not that of the backup it lies in."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class _Relation(_Part):
    schema_name: str
    name: str

    @property
    def full_name(self) -> str:
        """For people: ``public.users``."""
        return f"{self.schema_name}.{self.name}"


class Table(_Relation):
    """What a table held in the snapshot of the dump."""

    rows: int
    digest: Decimal
    """Sum over all rows of a hash of the row: the order of rows does not matter."""

    method: Literal["record", "text"]
    """What was hashed: the row itself, or its text where a type has no hash that is the same in every database."""


class Sequence(_Relation):
    """Sequences know no snapshots: the dump read this one at some time between two looks."""

    before: int
    after: int
    """Its last value before and after the dump."""

    is_called: bool
    """Whether a value was taken, at the first look."""


class Extension(_Part):
    name: str
    version: str
    schema_name: str


class Database(_Part):
    """What was dumped, and how it looked in that very snapshot."""

    name: str
    server_version: int
    """``170010``."""

    client_version: str
    """``17.10``, of pg_dump."""

    system_identifier: str
    """Of the cluster; nothing is ever restored into the one with this number. Empty where nobody may ask."""

    wal_position: str
    """``0/3000060``, when the snapshot was taken."""

    source_bytes: int
    """Size of the database with its indexes."""

    encoding: str
    locale: str
    tables: tuple[Table, ...]
    """Those whose rows are in the dump, partitions one by one."""

    sequences: tuple[Sequence, ...]
    extensions: tuple[Extension, ...]


class Piece(_Part):
    """One file of the log of a cluster."""

    name: str
    """``000000010000000000000003``, or ``00000002.history``."""

    bytes: int
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Cluster(_Part):
    """Of which cluster a base backup is, or a stretch of its log; and where in the log it stands."""

    system_identifier: str
    server_version: int
    """``170010``."""

    client_version: str
    """``17.10``, of pg_basebackup or pg_receivewal."""

    superuser: str
    """The role that initdb made: it may log in where all others may not."""

    database: str
    """The platform's; a cluster may hold more."""

    timeline: int
    """In which it ends."""

    begin: str
    """``0/3000060``: here the stretch begins; recovery of a base backup needs the log from here on."""

    end: str
    """Here the stretch ends; from here on what was recovered is consistent."""

    segment_bytes: int
    source_bytes: int
    """Of all databases, with their indexes."""

    until: datetime
    """The server's clock at the end."""

    log: tuple[Piece, ...] = ()
    """Of a stretch: its files; the last segment need not be full."""


class Object(_Part):
    """One object of a backup, as it lies in S3."""

    role: Annotated[str, Field(pattern=r"^[a-z][a-z_]*$")]
    """``archive`` (one or more, to be read one after the other), ``roles`` …"""

    key: str
    bytes: int
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Encryption(_Part):
    method: Literal["aes-256-gcm", "age"]
    key_id: str
    """Names the key without telling anything about it; see ``upkeep.backup.encryption``."""


class Manifest(_Part):
    """Everything that must be known to judge and to restore a backup; times in UTC."""

    format: Literal[1] = FORMAT
    id: Annotated[str, Field(pattern=ID.pattern)]
    """``20261122T010000Z-9f3c2a10``: when it began, and something random. Age is judged by ``finished``, not by it."""

    platform: str
    kind: Kind
    engine: str
    """``dump``, ``basebackup``, ``copy``, ``tar`` …"""

    started: datetime
    finished: datetime
    objects: tuple[Object, ...]
    compression: Literal["none", "archive", "gzip"] = "none"
    """``archive``: the dump compresses itself; ``gzip``: all of the object."""

    encryption: Encryption | None = None
    database: Database | None = None
    """Of kind ``database``."""

    cluster: Cluster | None = None
    """Of kind ``cluster``."""

    facts: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    """What other kinds want to remember."""

    dag_id: str = ""
    run_id: str = ""
    tool: str = ""
    """``upkeep 0.1.0``."""

    @property
    def size(self) -> int:
        """Bytes that it occupies, but for the manifest."""
        return sum(one.bytes for one in self.objects)

    def role(self, role: str) -> tuple[Object, ...]:
        return tuple(one for one in self.objects if one.role == role)

    def json_bytes(self) -> bytes:
        return (self.model_dump_json(indent=1) + "\n").encode()


def new_id(now: datetime | None = None) -> str:
    return f"{now or datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def folder(prefix: str, id: str) -> str:
    """``database/20261122T010000Z-9f3c2a10/``. :raises ManifestError: that is no id (somebody typed it)."""
    if not ID.fullmatch(id):
        raise ManifestError(
            f"{id!r} is not the id of a backup", hint="ids look like 20261122T010000Z-9f3c2a10; list the backups."
        )
    return f"{prefix}{id}/"


def commit(store: Store, prefix: str, manifest: Manifest) -> str:
    """
    Write the manifest: from now on the backup counts. Read back, so that what counts can be read.

    :returns: the SHA-256 of its bytes, for the ledger.
    :raises StoreError: a listed object is not there in its size, or what was read back differs.
    """
    place = folder(prefix, manifest.id)
    store.check(manifest.objects)
    content = manifest.json_bytes()
    store.put(place + NAME, content, content_type="application/json")
    if store.get(place + NAME, most=len(content) + 1) != content:
        raise ManifestError(
            f"{store.url(place + NAME)}: read back, it is not what was written",
            hint="the store loses or mixes data; look at it before anything else.",
        )
    return hashlib.sha256(content).hexdigest()


def read(store: Store, prefix: str, id: str, *, platform: str = "", sha256: str = "") -> Manifest:
    """
    The manifest of one backup.

    :param platform: whose it must be; empty for anybody's. :param sha256: what the ledger says it is.
    :raises ManifestError: there is none, it is broken, or it is that of another backup.
    """
    key = folder(prefix, id) + NAME
    content = store.get(key, most=MOST_BYTES)
    where = store.url(key)
    if content is None:
        raise ManifestError(
            f"{where}: not there", hint="without it the backup was never finished, or somebody deleted it: use another."
        )
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as wrong:
        first = wrong.errors(include_url=False)[0]
        said = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}".lstrip(": ")
        raise ManifestError(
            f"{where}: broken: {said}", hint="use another backup; a newer Upkeep may have written this one."
        ) from None
    place = folder(prefix, manifest.id)
    stray = [one.key for one in manifest.objects if not one.key.startswith(place)]
    for value, wanted, what in (
        (manifest.id, id, "backup"),
        (manifest.platform, platform or manifest.platform, "platform"),
        (stray[0] if stray else "", "", "folder"),
    ):
        if value != wanted:
            raise ManifestError(
                f"{where}: it is the manifest of another {what}: {value!r}" + (f", not {wanted!r}" if wanted else ""),
                hint="somebody copied or swapped it; use another backup and find out who.",
            )
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise ManifestError(
            f"{where}: it is not the manifest that was written when the backup was made",
            hint="somebody replaced it; use another backup and find out who.",
        )
    return manifest


def ids(store: Store, prefix: str) -> Iterator[tuple[str, list[Stored]]]:
    """Each folder below ``prefix`` that is named like a backup, oldest name first, with its objects, at least one."""
    for id in sorted(store.folders(prefix)):
        # Between the two questions somebody may have deleted them; some stores name folders that nothing is in.
        if ID.fullmatch(id) and (objects := list(store.objects(folder(prefix, id)))):
            yield id, objects


def committed(store: Store, prefix: str) -> list[str]:
    """Ids of the backups that have a manifest, oldest name first; whether it can be read is another question."""
    return [id for id, objects in ids(store, prefix) if any(one.key == folder(prefix, id) + NAME for one in objects)]
