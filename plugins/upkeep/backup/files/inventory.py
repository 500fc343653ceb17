"""
What a copy of files holds: one line per file, in the order of keys, in ``inventory.jsonl.gz`` beside the manifest.

The copies themselves lie in ``{prefix}objects/``, each under the name of its content, and are shared by all backups: an
older inventory still finds what its files were.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from upkeep.backup import compression
from upkeep.backup.manifest import Manifest, ManifestError, committed, read
from upkeep.backup.store import Store, Stored

INVENTORY = "inventory"
FILE = "inventory.jsonl.gz"
MOST_KEY = 1024
"""Bytes of a key that S3 takes."""


@dataclass(frozen=True)
class Entry:
    """One file at one time."""

    key: str
    """In the application's bucket."""

    bytes: int
    etag: str
    modified: str
    """When the application wrote it; ISO 8601, UTC."""

    copy: str
    """Key of its copy, in the bucket of backups."""

    @classmethod
    def of(cls, stored: Stored, prefix: str) -> Entry:
        return cls(
            stored.key, stored.bytes, stored.etag, stored.modified.isoformat(), copy_key(prefix, stored.key, stored)
        )


def objects(prefix: str) -> str:
    """Where the copies lie."""
    return f"{prefix}objects/"


def copy_key(prefix: str, key: str, content: Stored) -> str:
    """Where the copy of a file with this content goes; the same for the same, so nothing is copied twice."""
    name = f"{objects(prefix)}{key}@{content.etag}-{content.bytes}"
    if len(name.encode()) <= MOST_KEY:
        return name
    return f"{objects(prefix)}{hashlib.sha256(key.encode()).hexdigest()}@{content.etag}-{content.bytes}"


def lines(entries: Iterable[Entry]) -> Iterator[bytes]:
    for entry in entries:
        yield json.dumps(asdict(entry), ensure_ascii=False).encode() + b"\n"


def packed(entries: Iterable[Entry]) -> Iterator[bytes]:
    """As the object holds it."""
    return compression.compress(lines(entries))


def entries(store: Store, manifest: Manifest) -> Iterator[Entry]:
    """
    The files of a backup, in the order of their keys.

    :raises ManifestError: at the end, when what was read is not what the manifest says; believe nothing before.
    """
    for one in manifest.role(INVENTORY):
        digest = hashlib.sha256()
        rest = b""
        for piece in compression.decompress(_hashed(store.read(one.key), digest)):
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                yield Entry(**json.loads(line))
        if digest.hexdigest() != one.sha256 or rest:
            raise ManifestError(
                f"{store.url(one.key)}: it is not the inventory that was written",
                hint="somebody changed it; use another backup and find out who.",
            )


def _hashed(pieces: Iterable[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    for piece in pieces:
        digest.update(piece)
        yield piece


def newest(store: Store, prefix: str, platform: str) -> Manifest | None:
    """The newest backup whose inventory can be read whole; None when there is none."""
    found = []
    for id in committed(store, prefix):
        try:
            found.append(read(store, prefix, id, platform=platform))
        except ManifestError:
            continue
    for manifest in sorted(found, key=lambda one: one.finished, reverse=True):
        try:
            for _ in entries(store, manifest):
                pass
        except (ManifestError, compression.CompressionError, ValueError):
            continue
        return manifest
    return None
