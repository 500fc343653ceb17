"""The janitor of backups: uploads that nobody will complete. Folders without a manifest are retention's."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from upkeep.backup.store import Store


def uploads(store: Store, prefix: str, *, older_than: timedelta | None) -> Iterator[str]:
    """
    Abort unfinished multipart uploads, and name them.

    :param older_than: None when nobody else writes below ``prefix`` now: all of them are dead workers'.
    """
    for upload in store.unfinished(prefix):
        if older_than is None or datetime.now(UTC) - upload.begun > older_than:
            store.abort(upload)
            yield store.url(upload.key)
