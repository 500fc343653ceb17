"""
The first tier of verification: every byte of a backup is read back and compared with its manifest.

Sizes, SHA-256, every frame of encryption and block of gzip, and the archive's table of contents: a dump without the
data of a table that the manifest names is found without restoring it.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from upkeep.backup import compression, encryption
from upkeep.backup.compression import CompressionError
from upkeep.backup.dump import ARCHIVE
from upkeep.backup.encryption import DecryptionError, Key, WrongKeyError
from upkeep.backup.faults import Fault, some
from upkeep.backup.manifest import Manifest, Object, Table
from upkeep.backup.programs import Programs, command
from upkeep.backup.store import Store, StoreError


@dataclass(frozen=True)
class Read:
    faults: tuple[Fault, ...]
    bytes: int
    """That were read."""


def look(store: Store, manifest: Manifest, key: Key | None, programs: Programs | None) -> Read:
    """
    Read all of a backup.

    :param programs: to read the table of contents of a dump; None for other kinds.
    :raises StoreError: the store is away; an object that is not there is a fault.
    """
    faults: list[Fault] = []
    total = 0
    for role in dict.fromkeys(one.role for one in manifest.objects):
        raw = Objects(store, manifest.role(role))
        contents = TableOfContents(programs) if programs and role == ARCHIVE else None
        opened: list[Fault] = []
        try:
            for piece in plain(raw, manifest, key, role):
                if contents:
                    contents.feed(piece)
        except DecryptionError as unread:
            kind = "key" if isinstance(unread, WrongKeyError) else "unreadable"
            opened.append(Fault(kind, f"{role} cannot be decrypted: {unread.message}"))  # type: ignore[arg-type]
        except CompressionError as unread:
            opened.append(Fault("unreadable", f"{role} cannot be decompressed: {unread.message}"))
        finally:
            listed = contents.finish() if contents else None
        # Whoever stopped reading early has not compared the rest.
        for _ in raw:
            pass
        total += raw.bytes
        faults += raw.faults + opened
        if listed and not raw.absent and not opened:
            faults += judge(listed, manifest.database.tables if manifest.database else ())
    return Read(tuple(faults), total)


def plain(raw: Iterable[bytes], manifest: Manifest, key: Key | None, role: str) -> Iterator[bytes]:
    """What was written, before it was compressed and encrypted."""
    pieces = iter(raw)
    if manifest.encryption:
        pieces = encryption.decrypt(pieces, key, f"{manifest.id}/{role}")
    if manifest.compression == "gzip":
        pieces = compression.decompress(pieces)
    return pieces


class Objects:
    """
    The bytes of some objects, one after the other, compared with what they should be while they pass.

    An iterator without ``close``: who reads on after somebody else gave up gets the rest.
    """

    def __init__(self, store: Store, objects: Sequence[Object]) -> None:
        self.faults: list[Fault] = []
        self.bytes = 0
        self.absent = False
        self._pieces = self._read(store, objects)

    def __iter__(self) -> Objects:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def _read(self, store: Store, objects: Sequence[Object]) -> Iterator[bytes]:
        for one in objects:
            digest, size = hashlib.sha256(), 0
            try:
                for piece in store.read(one.key):
                    digest.update(piece)
                    size += len(piece)
                    yield piece
            except StoreError as refused:
                if refused.code not in ("NoSuchKey", "404"):
                    raise
                self.absent = True
                self.faults.append(Fault("missing", f"{one.key} is not there"))
                continue
            self.bytes += size
            self.faults += _differences(one, size, digest.hexdigest())


def _differences(one: Object, size: int, sha256: str) -> Iterator[Fault]:
    if size == 0 and one.bytes:
        yield Fault("empty", f"{one.key} is empty; it had {one.bytes:,} bytes")
    elif size < one.bytes:
        yield Fault("truncated", f"{one.key} was cut off: {size:,} of {one.bytes:,} bytes are left")
    elif size > one.bytes:
        yield Fault("longer", f"{one.key} has {size:,} bytes; it had {one.bytes:,}")
    elif sha256 != one.sha256:
        yield Fault("changed", f"{one.key} was changed or replaced: SHA-256 is {sha256[:12]}…, not {one.sha256[:12]}…")


class TableOfContents:
    """``pg_restore --list``, fed with an archive that passes by; it reads as much of it as it needs."""

    def __init__(self, programs: Programs) -> None:
        self._out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by finish
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            command([programs("pg_restore"), "--list", "--create"]),
            env=programs.environment(),
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=self._out,
            stderr=self._said,
        )
        self._hungry = True

    @property
    def hungry(self) -> bool:
        """Whether more of the archive is wanted."""
        return self._hungry

    def feed(self, piece: bytes) -> None:
        if not self._hungry:
            return
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(piece)
        except BrokenPipeError:
            self._hungry = False

    def finish(self) -> list[str] | Fault:
        """The lines of the table of contents, or why there is none."""
        with self._out, self._said, self._process:
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            code = self._process.wait(timeout=600)
            self._out.seek(0)
            self._said.seek(0)
            said = " ".join(self._said.read(2000).decode(errors="replace").split())
            if code:
                return Fault("contents", f"the archive's table of contents cannot be read: {said}")
            return self._out.read().decode(errors="replace").splitlines()


def judge(listed: list[str] | Fault, tables: Sequence[Table]) -> list[Fault]:
    """Whether the archive has data of every table that the manifest counted."""
    if isinstance(listed, Fault):
        return [listed]
    missing = left_out(listed, tables)
    if missing and len(missing) == len(tables):
        return [Fault("tables", f"the archive holds no data of any of its {len(tables)} tables: the schema alone")]
    if missing:
        return [Fault("tables", f"the archive holds no data of {some(missing)}")]
    return []


def left_out(listed: Iterable[str], tables: Sequence[Table]) -> list[str]:
    """Tables without an entry ``3456; 0 16390 TABLE DATA public users app_owner``; names may hold spaces."""
    wanted = {f"{one.schema_name} {one.name}".replace("\n", " "): one.full_name for one in tables}
    for line in listed:
        _, marker, rest = line.partition(" TABLE DATA ")
        if marker and not line.startswith(";"):
            words = rest.split(" ")
            for end in range(2, len(words) + 1):
                wanted.pop(" ".join(words[:end]), None)
    return sorted(wanted.values())
