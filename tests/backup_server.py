"""A server with data of every kind, its backups, and what can be done to a stored one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import psycopg

from sandbox.home import Home
from tests.postgres_server import PostgresServer
from tests.retention_server import bucket
from upkeep.backup import dump, programs, verification
from upkeep.backup.encryption import AesKey, Key
from upkeep.backup.manifest import Manifest, Object, commit, folder, new_id
from upkeep.backup.store import Store

KEY, OTHER_KEY = AesKey(b"k" * 32), AesKey(b"o" * 32)

DATA = """
create type mood as enum ('fine', 'tired');
create domain code as text check (value <> '');
create type spot as (x int, y int);
create table users (id bigint generated always as identity primary key, email text not null, born date, pay numeric);
insert into users (email, born, pay)
select 'user-' || i || '@example.com', date '1970-01-01' + i, i / 7.0 from generate_series(1, 2000) as i;
create table bookings (id int primary key, user_id bigint references users, at timestamptz, note text, doc jsonb);
insert into bookings
select i, 1 + i % 2000, now() + i * interval '1 min', 'note ''" ü ' || i, jsonb_build_object('seat', i, 'n', null)
from generate_series(1, 5000) as i;
create index on bookings (user_id);
create table "odd ""names" ("x" int, "a b" mood, moods mood[], code code, spot spot, j json, p point, span int4range,
    class regclass, bits bit(4), bytes bytea, half float8, twice int generated always as ("x" * 2) stored);
insert into "odd ""names"
select i, 'tired', '{fine,tired}', 'c', row(i, 2)::spot, '{"a": 1}', point(i, 0.1), int4range(i, i + 1),
    'users'::regclass, B'1010', '\\x00ff', i / 3.0 from generate_series(1, 50) as i;
create table events (id int, at date) partition by range (at);
create table events_2025 partition of events for values from ('2025-01-01') to ('2026-01-01');
insert into events select i, date '2025-01-01' + i % 300 from generate_series(1, 500) as i;
create table nothing (id int);
create sequence tickets;
select setval('tickets', 4711);
create view people as select email from users;
create schema audit;
create table audit.log (at timestamptz default now(), said text);
insert into audit.log (said) values ('it was so');
"""


class BackupServer(PostgresServer):
    """Dumped as the maintenance role."""

    def __init__(self, home: Home, version: int, **how: Any) -> None:
        super().__init__(home, version, **how)
        self.store = Store(*bucket(home))
        self.directories = [Path(home.facts(self.name)["bin"])]
        self.prefix = f"{self.name}/"

    def empty(self) -> Self:
        super().empty()
        for kind, name in (("sequence", "tickets"), ("domain", "code"), ("type", "mood"), ("type", "spot")):
            self(f"drop {kind} if exists {name} cascade")
        for one in list(self.store.objects(self.prefix)):
            self.store.delete(one.key)
        return self

    def fill(self) -> None:
        with psycopg.connect(self.owner, autocommit=True) as connection:
            connection.execute(DATA)

    def choose(self, version: int) -> programs.Programs:
        return programs.client(version, self.directories)

    def job(self, **how: Any) -> dump.Job:
        return dump.Job("studyspot", self.conninfo, self.store, self.prefix, **how)

    def back_up(self, *, choose: Callable[[int], programs.Programs] | None = None, **how: Any) -> Manifest:
        return dump.dump(self.job(**how), choose or self.choose).manifest

    def subject(self, id: str, *, key: Key | None = None, **how: Any) -> verification.Subject:
        return verification.Subject("studyspot", self.store, self.prefix, id, key=key, programs=self.directories, **how)

    def read_back(self, id: str, **how: Any) -> list[tuple[str, str]]:
        """Faults of the first tier."""
        return _told(verification.read_back(self.subject(id, **how)))

    def restore(self, id: str, queries: Any = (), **how: Any) -> list[tuple[str, str]]:
        """Faults of the second tier."""
        seen: list[Path] = []
        with tempfile.TemporaryDirectory(prefix="up-", dir="/tmp") as parent:
            verdict = verification.restore(
                self.subject(id, **how), Path(parent), queries, made=seen.append, removed=seen.remove
            )
            assert not list(Path(parent).iterdir()), "nothing is left"
        assert not seen
        assert not verdict.unknown
        return _told(verdict)

    # -- doing something to stored ones ----------------------------------------------------------------------

    def archive(self, backup: Manifest) -> bytes:
        (one,) = backup.role(dump.ARCHIVE)
        return b"".join(self.store.read(one.key))

    def forge(self, backup: Manifest, archive: bytes, **changed: Any) -> Manifest:
        """A backup that is consistent in itself: another archive, its own honest SHA-256, and the old digests."""
        id = new_id()
        objects = []
        for one in backup.objects:
            content = archive if one.role == dump.ARCHIVE else b"".join(self.store.read(one.key))
            key = folder(self.prefix, id) + one.key.rpartition("/")[2]
            made = self.store.put(key, content)
            objects.append(Object(role=one.role, key=key, bytes=made.bytes, sha256=made.sha256))
        forged = backup.model_copy(update={"id": id, "objects": tuple(objects), **changed})
        commit(self.store, self.prefix, forged)
        return forged

    def pg_dump(self, *arguments: str) -> bytes:
        """Another dump of the same database."""
        used = self.choose(self.version * 10_000)
        command = [used("pg_dump"), "-Fc", *arguments, f"--dbname={programs.without_secrets(self.conninfo)}"]
        return b"".join(programs.stream(command, used.environment(self.conninfo)))


def _told(verdict: verification.Verdict) -> list[tuple[str, str]]:
    return [(fault.kind, fault.said) for fault in verdict.faults]
