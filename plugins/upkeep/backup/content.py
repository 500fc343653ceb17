"""What a database holds: per table the number of rows and a digest that knows no order; sequences; extensions."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, Literal

from psycopg import sql

from upkeep.backup import manifest
from upkeep.postgres.session import Connection, connect
from upkeep.settings import ROOT

SESSIONS = 2
"""That count at once; PostgreSQL's own parallel workers come on top of them."""

LOCKED = timedelta(seconds=30)
"""So long a table may be locked by somebody who changes it."""

LONG = timedelta(days=7)

SETTINGS = {
    # As text, a row must look the same everywhere.
    "DateStyle": "ISO, YMD",
    "TimeZone": "UTC",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "search_path": "",
    # They wait for the dump.
    "idle_in_transaction_session_timeout": "0",
    "transaction_timeout": "0",
    "row_security": "off",
}

Method = Literal["record", "text"]

Values = dict[tuple[str, str], tuple[int, bool]]
"""Of sequences: ``{("public", "users_id_seq"): (last_value, is_called)}``."""


@dataclass(frozen=True)
class Found:
    """A table, before anybody has counted it."""

    schema_name: str
    name: str
    method: Method

    @property
    def quoted(self) -> sql.Identifier:
        return sql.Identifier(self.schema_name, self.name)


@cache
def query(name: str) -> str:
    """The text of ``include/sql/backup/<name>.sql``."""
    return (ROOT / "include" / "sql" / "backup" / f"{name}.sql").read_text()


@contextmanager
def session(conninfo: str, snapshot: str = "") -> Iterator[Connection]:
    """
    A transaction that sees one state of the database to its end and writes nothing.

    :param snapshot: of another session, as it exported it; empty for one's own.
    """
    with (
        connect(conninfo, lock_timeout=LOCKED, statement_timeout=LONG, settings=SETTINGS) as connection,
        connection.transaction(),
    ):
        connection.execute("set transaction isolation level repeatable read, read only")
        if snapshot:
            connection.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot)))
        yield connection


def tables(connection: Connection, *, portable: bool = False) -> list[Found]:
    """
    Those whose rows a dump holds, the largest first.

    :param portable: digest all of them as text, for a restore into another major version.
    """
    rows = connection.execute(query("tables")).fetchall()
    return [Found(row["schema_name"], row["name"], "text" if portable else row["method"]) for row in rows]


def extensions(connection: Connection) -> tuple[manifest.Extension, ...]:
    return tuple(manifest.Extension(**row) for row in connection.execute(query("extensions")).fetchall())


def sequences(connection: Connection) -> Values:
    """As they are now: they know no snapshots."""
    found: Values = {}
    for row in connection.execute(query("sequences")).fetchall():
        where = sql.Identifier(row["schema_name"], row["name"])
        one = connection.execute(sql.SQL("select last_value, is_called from {}").format(where)).fetchone()
        assert one is not None
        found[row["schema_name"], row["name"]] = (one["last_value"], one["is_called"])
    return found


def digest(connection: Connection, table: Found) -> manifest.Table:
    """Count and digest one table; it is read once."""
    row = "hash_record_extended(x.*, 0)" if table.method == "record" else 'hashtextextended((x.*)::text collate "C", 0)'
    question = "select count(*) as rows, coalesce(sum({row}), 0) as digest from only {table} as x"
    seen = connection.execute(sql.SQL(question).format(row=sql.SQL(row), table=table.quoted)).fetchone()
    assert seen is not None
    return manifest.Table(
        schema_name=table.schema_name,
        name=table.name,
        rows=seen["rows"],
        digest=seen["digest"],
        method=table.method,
    )


class Counting:
    """
    Tables being counted and digested by a few sessions at once, all of them in one snapshot.

    Use it in a ``with``: whoever leaves early does not wait for the rest.
    """

    def __init__(self, conninfo: str, snapshot: str, found: Sequence[Found], *, sessions: int = SESSIONS) -> None:
        self.conninfo, self.snapshot, self.found = conninfo, snapshot, found
        self.rest = iter(found)
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.connections: list[Connection] = []
        count = max(1, min(sessions, len(found)))
        self.pool = ThreadPoolExecutor(count, thread_name_prefix="count")
        self.begun = threading.Barrier(count + 1)
        self.work: list[Future[list[manifest.Table]]] = [self.pool.submit(self._session) for _ in range(count)]

    def __enter__(self) -> Counting:
        """All tables are locked against changes of their shape now: the dump must not find others in its way later."""
        try:
            self.begun.wait()
        except threading.BrokenBarrierError:
            self.__exit__()
            for future in self.work:
                future.result()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self.stopped.set()
        for connection in self.connections:
            connection.cancel_safe(timeout=2)
        self.pool.shutdown(wait=True)

    def result(self) -> tuple[manifest.Table, ...]:
        """All of them by name, when the last is done. :raises psycopg.Error: one could not be read."""
        made = [one for future in self.work for one in future.result()]
        return tuple(sorted(made, key=lambda one: (one.schema_name, one.name)))

    def _session(self) -> list[manifest.Table]:
        made = []
        try:
            with session(self.conninfo, self.snapshot) as connection:
                self.connections.append(connection)
                lock(connection, self.found)
                self.begun.wait()
                while (table := self._next()) is not None:
                    made.append(digest(connection, table))
        except threading.BrokenBarrierError:
            return []
        except BaseException:
            self.begun.abort()
            raise
        return made

    def _next(self) -> Found | None:
        with self.lock:
            return None if self.stopped.is_set() else next(self.rest, None)


def lock(connection: Connection, found: Iterable[Found]) -> None:
    """Keep tables from being dropped, truncated or altered while they are read; reading and writing go on."""
    names = sql.SQL(", ").join([sql.SQL("only {}").format(one.quoted) for one in found])
    if names.as_string():
        connection.execute(sql.SQL("lock table {} in access share mode").format(names))


def everything(conninfo: str, found: Sequence[Found], *, sessions: int = SESSIONS) -> tuple[manifest.Table, ...]:
    """Count and digest ``found`` in a database where nobody else works."""
    with session(conninfo) as connection:
        snapshot = exported(connection)
        with Counting(conninfo, snapshot, found, sessions=sessions) as counting:
            return counting.result()


def exported(connection: Connection) -> str:
    """The snapshot of a session, for others; it lives as long as the session's transaction."""
    row = connection.execute("select pg_export_snapshot() as snapshot").fetchone()
    assert row is not None
    return str(row["snapshot"])
