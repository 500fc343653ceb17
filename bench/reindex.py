"""
Index maintenance in a window that is too short for everything: who frees the most?

The window is 60 % of what ``reindexdb --concurrently`` takes for the whole database. Half of the tables are bloated;
their indexes are deduplicated, mostly NULL, on expressions, on texts and on numbers. Then the same with a session that
sits idle in a transaction: who builds in vain?
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from bench.baselines.reindex import Done, alphabetical, reindexdb
from bench.server import DATABASE, Server, server
from bench.timing import RUNS
from upkeep.ledger import Ledger, Run
from upkeep.ledger.migrate import migrate
from upkeep.platforms.database import Reindex
from upkeep.postgres.reindex import history, work
from upkeep.postgres.reindex.choose import choose
from upkeep.postgres.session import connect

COPY = "copy"
"""Name of the database that is worked on."""

SHARE = 0.6
"""Of the full time: the window."""

SETTINGS = Reindex(wasted="256KiB", old_transaction=timedelta(seconds=1))
"""As by default, but for sizes and times that suit a database of half a gigabyte."""

TABLES = {
    # Rows, and how many of a hundred are deleted: half of the tables, spread over the alphabet.
    "archive": (300_000, 0),
    "bookings": (300_000, 75),
    "items": (300_000, 5),
    "notes": (300_000, 60),
    "ratings": (300_000, 0),
    "sessions": (300_000, 85),
}

INDEXES = {
    "amount": "amount",
    "at": "at",
    "comment": "comment",
    "email": "email",
    "lower": "lower(email)",
    "state": "state",
}
"""Numeric; timestamp; nine of ten NULL; text; expression; deduplicated (sixteen values). And the primary key."""


def reindex() -> dict[str, Any]:
    """MB freed, ours against the better of the two; and builds in vain while a transaction is idle."""
    with server(max_wal_size="4GB", shared_buffers="256MB") as postgres:
        return _contest(_Arena(postgres))


def _contest(arena: _Arena) -> dict[str, Any]:
    contenders: dict[str, Callable[[float], Done]] = {
        "ours": arena.ours,
        "reindexdb": arena.reindexdb,
        "alphabetical": arena.alphabetical,
    }
    freed: dict[str, list[float]] = {name: [] for name in contenders}
    full: list[float] = []
    # Once more, to warm up: it teaches our ledger how fast this machine is, as an earlier window would have.
    for _ in range(RUNS + 1):
        # Measured anew each time: the window is a share of what all of it takes now.
        with arena.fresh():
            began = time.perf_counter()
            arena.reindexdb(None)
            full.append(time.perf_counter() - began)
        for name, contender in contenders.items():
            with arena.fresh() as size:
                before = size()
                contender(full[-1] * SHARE)
                freed[name].append((before - size()) / 1024**2)
    mb = {name: round(statistics.median(values[1:]), 1) for name, values in freed.items()}
    better = max(("reindexdb", "alphabetical"), key=lambda name: mb[name])
    ratios = [theirs / mine for mine, theirs in zip(freed["ours"][1:], freed[better][1:], strict=True)]
    wasted = {}
    for name, contender in contenders.items():
        with arena.fresh(), arena.idle_in_transaction():
            wasted[name] = contender(full[-1] * SHARE).wasted
    return {
        "ours": mb["ours"],
        "baseline": mb[better],
        # Of what is freed: theirs by ours.
        "ratio": round(statistics.median(ratios), 3) if not wasted["ours"] else float("inf"),
        "unit": "MB",
        "freed_mb": mb,
        "full_s": round(statistics.median(full[1:]), 2),
        "window_s": round(statistics.median(full[1:]) * SHARE, 2),
        "wasted_builds_while_idle_in_transaction": wasted,
        "runs": RUNS,
    }


class _Arena:
    """One database in the state that all begin with, copied for each, and a ledger."""

    def __init__(self, postgres: Server) -> None:
        self.postgres = postgres
        with psycopg.connect(postgres.superuser, autocommit=True) as connection:
            connection.execute("create database ledger")
        self.ledger = make_conninfo(postgres.superuser, dbname="ledger")
        migrate(self.ledger)
        with psycopg.connect(postgres.application, autocommit=True) as connection:
            for number, (table, (rows, deleted)) in enumerate(TABLES.items()):
                _fill(connection, table, number, rows, deleted)

    def dsn(self, role: str) -> str:
        """Of the copy."""
        return make_conninfo(getattr(self.postgres, role), dbname=COPY)

    @contextmanager
    def fresh(self) -> Iterator[Callable[[], int]]:
        """The database as it was at first; gives what tells the bytes of all indexes, leftovers and all."""
        with psycopg.connect(self.ledger, autocommit=True) as connection:
            connection.execute(f"drop database if exists {COPY} with (force)")
            connection.execute(f"create database {COPY} template {DATABASE} strategy file_copy")
            connection.execute("checkpoint")

        def size() -> int:
            with psycopg.connect(self.dsn("superuser")) as connection:
                row = connection.execute(
                    "select sum(pg_relation_size(indexrelid)) from pg_index where indexrelid >= 16384"
                ).fetchone()
                return int(row[0]) if row else 0

        with psycopg.connect(self.dsn("superuser")) as connection:
            # Everybody begins with the same pages in memory.
            for table in TABLES:
                connection.execute(f"select count(*) from {table}")
        yield size

    @contextmanager
    def idle_in_transaction(self) -> Iterator[None]:
        with psycopg.connect(make_conninfo(self.dsn("application"), application_name="api")) as connection:
            connection.execute("set transaction isolation level repeatable read")
            connection.execute("select count(*) from ratings limit 1")
            # Long enough to be called old.
            time.sleep(SETTINGS.old_transaction.total_seconds())
            yield
            connection.rollback()

    def ours(self, window_s: float) -> Done:
        """Choosing included, as the least roles, on the record."""
        ends = datetime.now(UTC) + timedelta(seconds=window_s)
        maintenance, owner = self.dsn("maintenance"), self.dsn("upkeep_owner")
        run = Run(platform="bench", dag_id="bench", run_id=ends.isoformat(), task_id="reindex")
        done = Done()
        with Ledger(self.ledger) as ledger:
            # The database is the one of before: what was rebuilt in it never was.
            ledger.connection.execute("delete from index_baselines")
            speed = history.speed(ledger, run.platform)
            with connect(maintenance) as connection:
                choice = choose(connection, SETTINGS, {}, speed, left=ends - datetime.now(UTC))
            history.keep(ledger, run.platform, choice.baselines)
            plan = ledger.plan(run, history.CAPABILITY, [one.as_dict() for one in choice.candidates])
            for one in choice.candidates:
                result = work.rebuild_one(
                    ledger,
                    run,
                    plan,
                    maintenance,
                    owner,
                    one.as_dict(),
                    SETTINGS,
                    go=lambda: "",
                    free=lambda: 1e12,
                    ends=ends,
                )
                done.rebuilt += result["state"] == "done"
                done.wasted += bool(result["built"]) and result["state"] != "done"
        return done

    def reindexdb(self, window_s: float | None) -> Done:
        program = self.postgres.programs / "reindexdb"
        return reindexdb(program, self.dsn("superuser"), self.postgres.env, window_s)

    def alphabetical(self, window_s: float) -> Done:
        # One second for locks, as pg_auto_reindexer has it.
        return alphabetical(self.dsn("superuser"), window_s, lock_timeout="1s")


def _fill(connection: psycopg.Connection[Any], table: str, number: int, rows: int, deleted: int) -> None:
    connection.execute(
        f"create table {table} (id int primary key, at timestamptz, email text, amount numeric(10, 2), comment text,"
        " state int)"
    )
    connection.execute(
        f"insert into {table} select i, timestamptz '2026-01-01' + i * interval '7 s',"
        f" substr(md5((i * 31 + {number})::text), 1, 10) || '@example.com', hashint4(i + {number}) % 100000 / 100.0,"
        " case when i % 10 = 0 then md5(i::text) end, hashint4(i) & 15"
        f" from generate_series(1, {rows}) as i"
    )
    for name, columns in INDEXES.items():
        connection.execute(f"create index {table}_{name} on {table} ({columns})")
    if deleted:
        connection.execute(f"delete from {table} where abs(hashint4(id * 7 + {number})) % 100 < {deleted}")
    connection.execute(f"vacuum analyze {table}")
