"""The newest row of the trail, kept where whoever can change the ledger cannot: an object each night."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from upkeep.trail.chain import Head, hash_at

if TYPE_CHECKING:
    from upkeep.backup.store import Store, Stored
    from upkeep.ledger import Ledger

PREFIX = "trail/"

MOST = 400
"""Witnesses that are asked, the newest: of more than a year of nights."""

_KEY = re.compile(r"trail/\d{8}T\d{6}Z-(\d+)\.json")


def leave(store: Store, head: Head, now: datetime) -> str:
    """Put the head into the bucket, under its lock if it has one; the address. :raises StoreError: it cannot."""
    key = f"{PREFIX}{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{head.number}.json"
    content = {"number": head.number, "at": head.at.astimezone(UTC).isoformat(), "hash": head.hash}
    store.put(key, json.dumps(content).encode(), content_type="application/json")
    return store.url(key)


def witnesses(store: Store) -> Iterator[Head | str]:
    """
    The newest first; instead of one that cannot be read, why.

    Where the bucket keeps versions the first one of an object counts: who writes over it adds a second.

    :raises StoreError: the bucket cannot be read.
    """
    first: dict[str, Stored] = {}
    for one in store.versions(PREFIX):
        known = first.setdefault(one.key, one) if _KEY.fullmatch(one.key) and not one.marker else None
        if known is not None and one.modified < known.modified:
            first[one.key] = one
    for key in sorted(first, reverse=True)[:MOST]:
        content = store.get(key, most=10_000, version=first[key].version)
        try:
            said = json.loads(content or b"")
            yield Head(int(said["number"]), datetime.fromisoformat(said["at"]), str(said["hash"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            yield f"{store.url(key)} is no witness any longer"


def disagreements(ledger: Ledger, heads: Iterable[Head | str]) -> Iterator[str]:
    """What the witnesses say against the ledger. :raises LedgerError: the ledger is down."""
    for one in heads:
        if isinstance(one, str):
            yield one
            continue
        now = hash_at(ledger, one.number)
        if now is None:
            seen = f"which a witness of {one.at:%Y-%m-%d %H:%M} UTC names"
            yield f"the trail has no row {one.number}, {seen}: the ledger is an older copy, or rows were removed"
        elif now != one.hash:
            yield f"row {one.number} of the trail is another than a witness of {one.at:%Y-%m-%d %H:%M} UTC saw"
