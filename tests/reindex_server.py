"""Bloated indexes of every kind, and a server to rebuild them on as the maintenance role."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sandbox.servers import postgres as servers
from tests.conftest import run
from tests.postgres_server import DATABASE, PostgresServer
from upkeep.ledger import Ledger
from upkeep.platforms.database import Reindex
from upkeep.postgres.reindex import history, work
from upkeep.postgres.reindex.choose import Choice, choose
from upkeep.postgres.session import connect

SETTINGS = Reindex(wasted="64KiB", old_transaction=timedelta(seconds=1))

PLENTY = 1e12
"""Bytes of free disk."""

KINDS: Mapping[str, str] = {
    "id": "id",
    "ts": "ts",
    "tenant_ts": "tenant, ts",
    "amount": "amount",
    "email": "email",
    # Sixteen values: deduplicated.
    "low": "low",
    # Nine of ten are NULL.
    "note": "note",
    "expression": "lower(email)",
    "uid": "uid",
}
"""The nine kinds of B-tree, by what is behind ``ev_``."""


class ReindexServer(PostgresServer):
    """With Upkeep's owner role as well."""

    def __init__(self, home: Any, version: int, **settings: Any) -> None:
        super().__init__(home, version, **settings)
        self.superuser("alter role upkeep_owner set client_connection_check_interval = '1s'")
        self.upkeep_owner = servers.dsn(home, self.name, "upkeep_owner", DATABASE)

    def choose(self, ledger: Ledger | None = None, settings: Reindex = SETTINGS, **how: Any) -> Choice:
        """As the task does, remembering what was seen."""
        known = history.baselines(ledger, "studyspot") if ledger else {}
        speed = history.speed(ledger, "studyspot") if ledger else history.Speed(history.COLD_START, {})
        with connect(self.conninfo) as connection:
            choice = choose(connection, settings, known, speed, **how)
        if ledger:
            history.keep(ledger, "studyspot", choice.baselines)
        return choice

    def rebuild(self, ledger: Ledger, index: str, settings: Reindex = SETTINGS, **how: Any) -> dict[str, Any]:
        """One of the indexes that are chosen."""
        return self.rebuild_item(ledger, self.item(index), settings, **how)

    def rebuild_item(
        self, ledger: Ledger, item: dict[str, Any], settings: Reindex = SETTINGS, **how: Any
    ) -> dict[str, Any]:
        """What the task does with what was chosen."""
        how = {"go": lambda: "", "free": lambda: PLENTY, "pauses_s": (0.0,), **how}
        return work.rebuild_one(
            ledger, run(task="reindex"), None, self.conninfo, self.upkeep_owner, item, settings, **how
        )

    def item(self, index: str) -> dict[str, Any]:
        (found,) = [one for one in self.choose().candidates if one.name == index]
        return found.as_dict()

    def indexes(self) -> dict[str, tuple[int, bool]]:
        """Oid and validity of every index of the application."""
        rows = self(
            "select c.relname, c.oid::bigint, i.indisvalid"
            " from pg_index as i join pg_class as c on c.oid = i.indexrelid"
            " where c.relnamespace = 'public'::regnamespace and pg_get_userbyid(c.relowner) = 'app_owner'"
        )
        return {name: (oid, valid) for name, oid, valid in rows}

    def bytes(self, index: str) -> int:
        return int(self("select pg_relation_size(%s::regclass)", index)[0][0])


def nine_kinds(server: PostgresServer, rows: int, *, churn: bool = True) -> None:
    """Table ``ev`` with an index of every kind, churned as an application would, and vacuumed in between."""
    server(
        "create table ev (id bigint primary key, tenant int, ts timestamptz, email text, amount numeric(12,2),"
        " note text, low int, uid uuid)"
    )
    server("alter index ev_pkey rename to ev_id")
    server(
        "insert into ev select i, hashint4(i) & 511, timestamptz '2026-01-01' + i * interval '10 s',"
        " 'u' || (hashint4(i + 7)::bigint & 1048575) || '@Example.com', (hashint4(i + 1)::bigint & 1048575) / 100.0,"
        " case when i % 10 = 0 then md5(i::text) end, hashint4(i) & 15, md5(i::text)::uuid"
        f" from generate_series(1, {rows}) as i"
    )
    for kind, columns in KINDS.items():
        if kind != "id":
            server(f"create index ev_{kind} on ev ({columns})")
    if churn:
        server("update ev set amount = amount + 1, email = 'v' || email where id % 3 = 0")
        server("vacuum ev")
        server("update ev set amount = amount + 1, tenant = (tenant + 1) & 511, low = (low + 1) & 15 where id % 3 = 1")
        server("vacuum ev")
        server(f"delete from ev where id % 5 < 2 and id < {rows * 2 // 3}")
    server("vacuum analyze ev")


def bloated(server: PostgresServer, name: str, rows: int = 20_000, *, keep: int = 5) -> None:
    """Table ``name`` of whose rows one in ``keep`` is left, with indexes ``name_pkey`` and ``name_note``."""
    server(f"create table {name} (id int primary key, note text)")
    server(f"insert into {name} select i, md5(i::text) from generate_series(1, {rows}) as i")
    server(f"create index {name}_note on {name} (note)")
    server(f"delete from {name} where id % {keep} > 0")
    server(f"vacuum analyze {name}")
