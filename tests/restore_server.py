"""A server whose database is backed up, lost in part, and restored; by Upkeep's roles, never as a superuser."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any, Self

import psycopg
import pytest

from sandbox.home import Home
from sandbox.servers import postgres as servers
from tests.backup_server import BackupServer
from tests.conftest import libpq, run
from tests.postgres_server import DATABASE
from upkeep.backup import records, verdicts
from upkeep.backup.manifest import Manifest
from upkeep.backup.restore import choose, job, record
from upkeep.backup.restore.form import Asked
from upkeep.backup.restore.job import Job
from upkeep.backup.restore.record import Restore
from upkeep.ledger import Ledger
from upkeep.platforms.backup import Restoring
from upkeep.platforms.database import Query
from upkeep.retention import records as records_of

RULES = Restoring(wait="100ms", within="30s")  # type: ignore[arg-type]
QUERIES = (Query(name="users", sql="select count(*) from users", at_least=1),)
PLENTY = 1e12
PRISTINE = "pristine"
"""What each test's database is made from."""


class RestoreServer(BackupServer):
    """Its database is another one after each test."""

    def __init__(self, home: Home, version: int, **how: Any) -> None:
        super().__init__(home, version, **how)
        self.pristine = False
        self.deleter = servers.dsn(home, self.name, "upkeep_owner", DATABASE)

    def fresh(self) -> Self:
        """Nothing but the application's database, filled; no backups."""
        with servers.superuser(self.home, self.name) as connection:
            connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()")  # fmt: skip  # noqa: E501
            for name in self.databases():
                connection.execute(f'drop database "{name}" with (force)')  # type: ignore[arg-type]
            if not self.pristine:
                servers.prepare_platform(self.home, self.name, DATABASE)
                self.fill()
                connection.execute(f"alter database {DATABASE} rename to {PRISTINE}")
                self.pristine = True
            connection.execute(f"create database {DATABASE} template {PRISTINE} owner app_owner")
        for one in list(self.store.objects(self.prefix)):
            self.store.delete(one.key)
        return self

    def databases(self) -> dict[str, int]:
        """Oids of all but the server's own."""
        with servers.superuser(self.home, self.name) as connection:
            rows = connection.execute(
                "select datname, oid::bigint from pg_database where datname not in"
                " ('postgres', 'template0', 'template1')"
            ).fetchall()
        return {name: oid for name, oid in rows if name != PRISTINE}

    def ask(self, database: str, statement: str, role: str = "app_owner") -> list[tuple[Any, ...]]:
        with psycopg.connect(servers.dsn(self.home, self.name, role, database), autocommit=True) as connection:
            done = connection.execute(statement)  # type: ignore[call-overload]
            return done.fetchall() if done.description else []

    # -- backups on record -----------------------------------------------------------------------------------

    def backed_up(self, ledger: Ledger, *, verified: bool = True, **how: Any) -> Manifest:
        """A backup that is on record, and content-verified."""
        backup = self.back_up(**how)
        records.remember(ledger, self.store.bucket, self.prefix, backup)
        if verified:
            for tier in ("bytes", "content"):
                verdicts.write(ledger, "studyspot", backup.id, tier, [], {})  # type: ignore[arg-type]
        return backup

    def erase(self, ledger: Ledger, table: str, column: str, cut_off: str, only: str = "true") -> int:
        """Delete rows for good, and write it into the ledger as retention does; how many."""
        rows = self(
            f"with gone as (delete from {table} where {column} < '{cut_off}' and ({only})"
            f" returning {column} as key, id)"
            " select count(*), min(key)::text, max(key)::text, sum(hashtextextended(id::text, 0)::numeric) from gone"
        )
        ((count, low, high, ids),) = rows
        records_of.Copier(ledger, run(9)).tell(
            {
                "id": uuid.uuid4(), "relation": f"public.{table}", "plan": "b" * 64, "cut_off": f"{cut_off}T00:00:00Z",
                "key_column": column, "condition": f"{column} < '{cut_off}' and ({only})", "from_key": low,
                "to_key": high, "rows": count, "ids": ids, "archive": None, "deleted_at": now(),
            }
        )  # fmt: skip
        return int(count)

    # -- restoring -------------------------------------------------------------------------------------------

    def work(self, ledger: Ledger, number: int = 1, **how: Any) -> Job:
        given: dict[str, Any] = {
            "run": run(number, task="restore"), "ledger": ledger, "store": self.store, "prefix": self.prefix,
            "owner": self.deleter, "maintenance": self.conninfo, "rules": RULES, "queries": QUERIES,
            "directories": self.directories, "free": lambda: PLENTY,
        }  # fmt: skip
        return Job(**{**given, **how})

    def begin(self, work: Job, **asked: Any) -> Restore:
        form = Asked("studyspot", **asked)
        chosen = choose.choose(work.ledger, self.store, self.prefix, form)
        return record.begin(work.ledger, work.run, form, chosen.manifest.id, DATABASE, "mira")

    def prepared(self, work: Job, **asked: Any) -> Restore:
        """All that comes before the question."""
        restore = self.begin(work, **asked)
        job.room(work, restore, swaps=True)
        return job.erase(work, job.prove(work, job.bring(work, restore)))


def emptied(kept: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """A ledger of ``fresh_ledger``, with nothing in it, behind its connection."""
    with psycopg.connect(libpq(kept)) as connection:
        connection.execute(
            "truncate restores, backups, deletions, plans, actions, runs, outcomes, findings, outbox cascade"
        )
    monkeypatch.setenv("AIRFLOW_CONN_UPKEEP_LEDGER", json.dumps(kept))
    return libpq(kept)


def now() -> datetime:
    return datetime.now(UTC)
