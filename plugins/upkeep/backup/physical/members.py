"""
A tar archive that passes by: what is in it, and whether that is what PostgreSQL's own list of files says.

The same comparison as ``pg_verifybackup``, without a disk: on the way up while a base backup is made, and on the way
down when it is read back.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upkeep.backup.faults import Fault, some

BLOCK = 512
FILE_LIST = "backup_manifest"
"""PostgreSQL's name for it; the last member of a base backup."""

MOST_WANTED = 1 << 30
CHUNK = 1 << 20


@dataclass(frozen=True)
class Member:
    """One file of an archive."""

    size: int
    sha256: str
    head: bytes
    """Its first bytes; all of it where that was wanted."""


class Scanner:
    """Feed it an archive, piece by piece; nothing but what is wanted is held."""

    def __init__(self, wanted: Collection[str] = (), *, head: int = 0) -> None:
        """
        :param wanted: names of members that are kept whole.
        :param head: so many first bytes of every other are kept.
        """
        self.members: dict[str, Member] = {}
        self.ended = False
        self._wanted, self._head = frozenset(wanted), head
        self._buffer = bytearray()
        self._name = ""
        self._left = self._padding = 0
        self._size = 0
        self._digest = hashlib.sha256()
        self._kept = bytearray()

    def feed(self, piece: bytes) -> None:
        """:raises tarfile.HeaderError: that is no tar archive."""
        view = memoryview(piece)
        while view:
            if self._left:
                here, view = view[: self._left], view[self._left :]
                self._digest.update(here)
                most = MOST_WANTED if self._name in self._wanted else self._head
                if len(self._kept) < most:
                    self._kept += here[: most - len(self._kept)]
                self._left -= len(here)
                if not self._left:
                    self._close()
            elif self._padding:
                skipped = min(self._padding, len(view))
                self._padding -= skipped
                view = view[skipped:]
            else:
                missing = BLOCK - len(self._buffer)
                self._buffer += view[:missing]
                view = view[missing:]
                if len(self._buffer) == BLOCK:
                    header = bytes(self._buffer)
                    self._buffer.clear()
                    self._open(header)

    def _open(self, header: bytes) -> None:
        if header.count(0) == BLOCK:
            self.ended = True
            return
        self.ended = False
        found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        if not found.isreg():
            return
        self._name, self._size = found.name.removeprefix("./"), found.size
        self._left, self._padding = found.size, -found.size % BLOCK
        self._digest, self._kept = hashlib.sha256(), bytearray()
        if not found.size:
            self._close()

    def _close(self) -> None:
        self.members[self._name] = Member(self._size, self._digest.hexdigest(), bytes(self._kept))

    def watch(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Let them pass."""
        for piece in pieces:
            self.feed(piece)
            yield piece


def listed(members: Mapping[str, Member]) -> dict[str, Any] | Fault:
    """PostgreSQL's list of the files of a base backup, or why it cannot be believed."""
    if FILE_LIST not in members:
        return Fault("contents", f"{FILE_LIST}, which ends every base backup, is not in it: it was cut off")
    content = members[FILE_LIST].head
    try:
        said = json.loads(content)
        body, checksum = content[: content.rindex(b'"Manifest-Checksum"')], said["Manifest-Checksum"]
    except (ValueError, KeyError, TypeError) as broken:
        return Fault("contents", f"{FILE_LIST} cannot be read: {broken}")
    if hashlib.sha256(body).hexdigest() != checksum:
        return Fault("contents", f"{FILE_LIST} was changed: its own checksum is not {str(checksum)[:12]}…")
    return dict(said)


def compare(members: Mapping[str, Member], files: Mapping[str, Any]) -> list[Fault]:
    """The files of a base backup against PostgreSQL's list of them."""
    absent, changed = [], []
    names = set()
    for one in files["Files"]:
        name = one["Path"] if "Path" in one else bytes.fromhex(one["Encoded-Path"]).decode("utf-8", "surrogateescape")
        names.add(name)
        found = members.get(name)
        if found is None:
            absent.append(name)
        elif found.size != one["Size"]:
            changed.append(f"{name} has {found.size:,} of {one['Size']:,} bytes")
        elif one.get("Checksum-Algorithm") == "SHA256" and found.sha256 != one["Checksum"]:
            changed.append(f"{name} is not what the server sent")
    stray = sorted(name for name in members if name not in names and not _unlisted(name))
    faults = [Fault("contents", f"not in the base backup: {some(absent)}")] if absent else []
    faults += [Fault("contents", f"changed in the base backup: {some(changed)}")] if changed else []
    faults += [Fault("contents", f"in the base backup, and not in the server's list: {some(stray)}")] if stray else []
    return faults


def _unlisted(name: str) -> bool:
    return name in (FILE_LIST, "postgresql.auto.conf", "tablespace_map") or name.startswith("pg_wal/")


def archive(files: Iterable[tuple[str, Path]]) -> Iterator[bytes]:
    """A tar archive of files, as it is read; the same bytes for the same content."""
    for name, path in files:
        header = tarfile.TarInfo(name)
        header.size, header.mode = path.stat().st_size, 0o600
        yield header.tobuf(tarfile.USTAR_FORMAT)
        with path.open("rb") as file:
            while piece := file.read(CHUNK):
                yield piece
        if rest := -header.size % BLOCK:
            yield bytes(rest)
    yield bytes(2 * BLOCK)
