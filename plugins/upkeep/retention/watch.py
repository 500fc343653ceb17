"""The maintenance role's session while the owner deletes: counts, asks the brake, and keeps other runs out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

import psycopg

from upkeep.errors import StrainError
from upkeep.postgres.brake import Go
from upkeep.postgres.session import Connection, connect, exclusive
from upkeep.retention import plan as planning
from upkeep.retention.items import Item

ASK_S = 1.0
"""The brake is asked this often at most; transactions are shorter."""

AUTOVACUUM_S = 5.0
"""Between two looks whether autovacuum is at the table."""


class Watch:
    """One session, opened again after the server went away."""

    connection: Connection
    go: Go

    def __init__(self, conninfo: str, brake: Callable[[Connection], Go], ends: datetime | None) -> None:
        self.conninfo, self.brake, self.ends = conninfo, brake, ends
        self.stack = ExitStack()

    def open(self) -> None:
        """:raises StrainError: another run is at it. :raises psycopg.OperationalError: the server is away."""
        self.stack.close()
        session = connect(self.conninfo, statement_timeout=planning.COUNT, settings={"TimeZone": "UTC"})
        self.connection = self.stack.enter_context(session)
        if not self.stack.enter_context(exclusive(self.connection, "retention")):
            raise StrainError("another run is deleting rows here", hint="run it again when that one is through.")
        self.go = self.brake(self.connection)

    def alive(self) -> Connection:
        """The session, a new one if the old one was lost."""
        try:
            self.connection.execute("select")
        except psycopg.OperationalError:
            self.open()
        return self.connection

    def over(self, item: Item) -> Go:
        """The brake, not asked for each small transaction, and waiting while autovacuum is at the table."""
        asked = {"brake": float("-inf"), "autovacuum": float("-inf")}

        def polite() -> str:
            if time.monotonic() - asked["brake"] < ASK_S:
                return ""
            connection = self.alive()
            if time.monotonic() - asked["autovacuum"] >= AUTOVACUUM_S:
                while _autovacuum_is_at(connection, item):
                    if self.ends is not None and datetime.now(UTC) >= self.ends:
                        return "autovacuum is at the table"
                    time.sleep(AUTOVACUUM_S)
                asked["autovacuum"] = time.monotonic()
            said = self.go()
            asked["brake"] = time.monotonic()
            return said

        return polite


def _autovacuum_is_at(connection: Connection, item: Item) -> bool:
    at_it = (
        "select from pg_stat_progress_vacuum where datname = current_database()"
        " and relid = to_regclass(format('%%I.%%I', %s::text, %s::text))"
    )
    return connection.execute(at_it, [item.schema, item.name]).fetchone() is not None


@contextmanager
def watch(conninfo: str, brake: Callable[[Connection], Go], ends: datetime | None) -> Iterator[Watch]:
    """As ``Watch.open``; closed when the block ends."""
    opened = Watch(conninfo, brake, ends)
    try:
        opened.open()
        yield opened
    finally:
        with contextlib.suppress(psycopg.OperationalError):
            opened.stack.close()
