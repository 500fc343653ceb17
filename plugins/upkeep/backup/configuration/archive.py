"""
A tar that is the same for the same content: names in order, no times, no owners; and reading it again.

It streams: what is held is one file at a time.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import cast

from upkeep.backup.configuration.collect import Member
from upkeep.backup.encryption import Key
from upkeep.backup.faults import Fault
from upkeep.backup.manifest import Manifest
from upkeep.backup.reading import Objects, plain
from upkeep.backup.store import Store

ARCHIVE, INDEX = "archive", "index"
FILES = {ARCHIVE: "configuration.tar.gz", INDEX: "index.jsonl.gz"}
BLOCK = 512


@dataclass(frozen=True)
class Line:
    """One member, as the index beside the archive names it."""

    name: str
    kind: str
    """``file``, ``directory`` or ``link``."""

    mode: int
    bytes: int
    sha256: str
    """Of the content, or of where a link points."""

    hidden: bool


class Tar:
    """The bytes of an archive, and what it turned out to hold."""

    def __init__(self, members: Iterable[Member]) -> None:
        self.members = members
        self.index: list[Line] = []
        self.digest = hashlib.sha256()
        """Of the whole; the same for the same content."""

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces():
            self.digest.update(piece)
            yield piece

    def _pieces(self) -> Iterator[bytes]:
        for member in self.members:
            self.index.append(line(member))
            yield _header(member)
            yield member.content
            yield bytes(-len(member.content) % BLOCK)
        yield bytes(2 * BLOCK)

    def lines(self) -> Iterator[bytes]:
        """The index; whole only after the archive was."""
        for one in self.index:
            yield json.dumps(asdict(one), sort_keys=True).encode() + b"\n"


def line(member: Member) -> Line:
    kind = "directory" if member.directory else "link" if member.link is not None else "file"
    told = (member.link or "").encode("utf-8", "surrogateescape") if kind == "link" else member.content
    return Line(member.name, kind, member.mode, len(member.content), hashlib.sha256(told).hexdigest(), member.hidden)


def _header(member: Member) -> bytes:
    info = tarfile.TarInfo(member.name)
    info.mode, info.size = member.mode, len(member.content)
    if member.directory:
        info.type = tarfile.DIRTYPE
    elif member.link is not None:
        info.type, info.linkname = tarfile.SYMTYPE, member.link
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def members(pieces: Iterable[bytes]) -> Iterator[Member]:
    """What a tar of ours holds. :raises tarfile.TarError: it is none, or it ends too early."""
    with tarfile.open(fileobj=cast(io.BytesIO, _Reader(pieces)), mode="r|", errorlevel=2) as tar:
        for info in tar:
            content = b""
            if info.isreg():
                file = tar.extractfile(info)
                content = file.read() if file else b""
                if len(content) != info.size:
                    raise tarfile.ReadError(f"{info.name} ends after {len(content)} of {info.size} bytes")
            link = info.linkname if info.issym() else None
            yield Member(info.name, content, info.mode, link, info.isdir())


class _Reader:
    """Pieces as the file that ``tarfile`` reads from."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces, self.rest = iter(pieces), bytearray()

    def read(self, size: int) -> bytes:
        while len(self.rest) < size and (piece := next(self.pieces, None)) is not None:
            self.rest += piece
        taken = bytes(self.rest[:size])
        del self.rest[:size]
        return taken


def index(store: Store, manifest: Manifest, key: Key | None) -> list[Line]:
    """What the archive of a backup holds. :raises UpkeepError: it cannot be read, or not with this key."""
    raw = Objects(store, manifest.role(INDEX))
    text = b"".join(plain(raw, manifest, key, INDEX)).decode()
    return [Line(**json.loads(one)) for one in text.splitlines()]


def read_back(store: Store, manifest: Manifest, key: Key | None, expected: Iterable[Line]) -> list[Fault]:
    """
    Read the archive from the bucket, and hold each member against what went in.

    :raises UpkeepError: it cannot be read, decrypted or decompressed. :raises tarfile.TarError: it is no tar.
    """
    wanted = {one.name: one for one in expected}
    raw = Objects(store, manifest.role(ARCHIVE))
    pieces = plain(raw, manifest, key, ARCHIVE)
    faults = []
    for member in members(pieces):
        sent = wanted.pop(member.name, None)
        found = line(member)
        if sent is None or (found.kind, found.mode, found.bytes, found.sha256) != (
            sent.kind, sent.mode, sent.bytes, sent.sha256,
        ):  # fmt: skip
            faults.append(Fault("changed", f"{member.name} is not what was archived"))
    for _ in pieces:
        pass
    faults += [Fault("missing", f"{name} is not in the archive") for name in wanted]
    return faults + raw.faults


def fetch(store: Store, manifest: Manifest, key: Key | None, name: str) -> Member | None:
    """
    One member of a backup, to restore it; None when there is none of that name.

    :raises UpkeepError: it cannot be read, or not with this key.
    """
    raw = Objects(store, manifest.role(ARCHIVE))
    for member in members(plain(raw, manifest, key, ARCHIVE)):
        if member.name == name:
            return member
    return None
