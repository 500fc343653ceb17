"""A bucket with backups in it, for the tests of what keeps them, copies them and watches them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sandbox.home import Home
from tests.retention_server import bucket
from upkeep.backup import records
from upkeep.backup.manifest import Database, Kind, Manifest, Object, commit, folder, new_id
from upkeep.backup.store import Store
from upkeep.ledger import Ledger

DAY = timedelta(days=1)
DATABASE = Database(
    name="app", server_version=170010, client_version="17.10", system_identifier="7", wal_position="0/1",
    source_bytes=10_000, encoding="UTF8", locale="C", tables=(), sequences=(), extensions=(),
)  # fmt: skip


class Bucket:
    """Backups of one kind under a prefix of their own."""

    def __init__(self, home: Home, ledger: Ledger, prefix: str, *, platform: str = "studyspot") -> None:
        client, name = bucket(home)
        self.store, self.ledger, self.prefix, self.platform = Store(client, name), ledger, prefix, platform

    def make(
        self,
        age: timedelta,
        *,
        kind: Kind = "database",
        size: int = 1000,
        verified: bool = True,
        on_record: bool = True,
        **more: Any,
    ) -> str:
        """A committed backup of that age with two objects; its id."""
        at = datetime.now(UTC) - age
        id = new_id(at)
        place = folder(self.prefix, id)
        content = hashlib.sha256(id.encode()).digest() * (size // 32 + 1)
        objects = []
        for role, body in (("archive", content[:size]), ("roles", b"create role a;\n")):
            sent = self.store.put(f"{place}{role}", body)
            objects.append(Object(role=role, key=sent.key, bytes=sent.bytes, sha256=sent.sha256))
        if kind == "database":
            more.setdefault("database", DATABASE)
        manifest = Manifest(
            id=id, platform=self.platform, kind=kind, engine="dump", started=at - timedelta(minutes=5), finished=at,
            objects=tuple(objects), **more,
        )  # fmt: skip
        sha256 = commit(self.store, self.prefix, manifest)
        if on_record:
            records.remember(self.ledger, self.store.bucket, self.prefix, manifest, sha256=sha256)
            if verified:
                self.found(id, content_state="verified", content_at=at)
        return id

    def found(self, id: str, **columns: Any) -> None:
        """What somebody wrote down about a backup."""
        changes = ", ".join(f"{name} = %s" for name in columns)
        with self.ledger.transaction() as connection:
            connection.execute(f"update backups set {changes} where id = %s", [*columns.values(), id])  # type: ignore[call-overload]

    def row(self, id: str) -> Mapping[str, Any]:
        return self.ledger.rows("select * from backups where id = %s", [id])[0]

    def keys(self, id: str) -> list[str]:
        return sorted(one.key.rpartition("/")[2] for one in self.store.objects(folder(self.prefix, id)))
