"""Taking one backup out of the bucket: its manifest first, so that what is half gone counts no more."""

from __future__ import annotations

from dataclasses import dataclass

from upkeep.backup.manifest import NAME, folder
from upkeep.backup.store import LockedError, Store, Stored, StoreError


@dataclass
class Deleted:
    """What went."""

    objects: int = 0
    """Versions and delete markers included."""

    bytes: int = 0


def delete(store: Store, prefix: str, id: str) -> Deleted:
    """
    Delete every version of every object of a backup. Killed anywhere, it is called again and goes on.

    :raises LockedError: Object Lock or a legal hold keeps one of them; then none was touched.
    :raises StoreError: the store refused, or something is left.
    """
    place = folder(prefix, id)
    versions = _in_order(store, place)
    for one in versions:
        # Before anything goes: a lock on the data alone would otherwise leave it without its manifest.
        if not one.marker and (why := store.lock_of(one.key, one.version)):
            raise LockedError(f"{store.url(one.key)}: {why}", hint="it is deleted when the lock has run out.")
    done = Deleted()
    for one in versions:
        store.delete(one.key, one.version)
        done.objects += 1
        done.bytes += one.bytes
    if left := _in_order(store, place):
        raise StoreError(
            f"{store.url(left[0].key)}: still there after it was deleted", hint="who writes into this folder? Look."
        )
    return done


def _in_order(store: Store, place: str) -> list[Stored]:
    """The manifest first; of one key the versions before the delete markers, which hide them."""
    return sorted(store.versions(place), key=lambda one: (one.key != place + NAME, one.key, one.marker))
