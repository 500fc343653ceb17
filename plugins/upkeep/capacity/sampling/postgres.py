"""A PostgreSQL database: how large it is and what in it, its log, its connections, and the rows of what grows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import Any

import psycopg
from psycopg import sql

from upkeep.capacity.sampling.measured import Measured, NotMeasured
from upkeep.platforms.growth import Growth
from upkeep.postgres.session import Connection, connect
from upkeep.settings import ROOT

LARGEST = 20
"""So many tables, and so many indexes, have a series of their own."""

MOST_COUNTED = 20_000_000
"""Rows that are counted one by one; of more the server's own estimate is taken. Ten to twenty seconds, once a day."""

TIMEOUT = timedelta(seconds=60)


def database(conninfo: str, free: Callable[[], float | None], storage: float | None) -> Iterator[Measured]:
    """
    Size of the database, of its log, and its connections as they are now.

    :param free: bytes left where its data are; None: nobody knows.
    :param storage: of the whole cluster, where nothing can be asked.
    """
    with connect(conninfo, statement_timeout=TIMEOUT) as connection:
        row = _one(connection, "database")
    size, left = float(row["database_bytes"]), free()
    yield Measured(
        metric="database_bytes", object=row["database"], value=size, most=storage if left is None else size + left
    )
    if row["wal_bytes"] is not None:
        yield Measured(metric="wal_bytes", value=row["wal_bytes"])
    yield Measured(metric="connections", value=row["sessions"], most=row["most_sessions"])


def relations(conninfo: str) -> Iterator[Measured]:
    """The largest tables and indexes."""
    with connect(conninfo, statement_timeout=TIMEOUT) as connection:
        rows = connection.execute(_text("relations"), {"most": LARGEST}).fetchall()
    for row in rows:
        yield Measured(metric=row["metric"], object=row["object"], value=row["bytes"])


def growth(conninfo: str, of: Growth, today: date) -> Iterator[Measured]:
    """
    All rows of a table, and how many of them were made yesterday (a whole UTC day; none is a zero).

    :raises NotMeasured: there is no such table or column, or it may not be read.
    """
    with connect(conninfo, statement_timeout=TIMEOUT) as connection:
        about = _one(connection, "table_size", table=of.table, key=of.column)
        if not about["found"] or not about["column_found"]:
            what = f"no column {of.column} in table {of.table}" if about["found"] else f"no table {of.table}"
            raise NotMeasured(what, hint="correct `capacity.growth` in the platform file.")
        if (about["rows"] or 0) > MOST_COUNTED:
            yield Measured(metric="rows", object=of.name, value=round(about["rows"]))
            return
        yesterday = datetime.combine(today - timedelta(days=1), time(), UTC)
        table, column = sql.Identifier(*of.table.split(".")), sql.Identifier(of.column)
        count = sql.SQL(
            "select count(*) as rows,"
            " count(*) filter (where {column} >= %(begin)s and {column} < %(end)s) as new from {table}"
        ).format(table=table, column=column)
        try:
            # A column without a time zone is compared as UTC.
            connection.execute("set timezone = 'UTC'")
            row = connection.execute(count, {"begin": yesterday, "end": yesterday + timedelta(days=1)}).fetchone()
        except psycopg.errors.InsufficientPrivilege as refused:
            raise NotMeasured(
                f"{refused.diag.message_primary}", hint="grant SELECT on it to the role of maintenance."
            ) from None
        except psycopg.errors.QueryCanceled:
            raise NotMeasured(
                f"counting {of.table} took longer than {TIMEOUT.total_seconds():.0f} s",
                hint="analyze the table: of one that is known to be large the estimate is taken.",
            ) from None
    assert row is not None
    yield Measured(metric="rows", object=of.name, value=row["rows"])
    yield Measured(metric="new_rows", object=of.name, value=row["new"], days_ago=1)


@cache
def _text(question: str) -> str:
    return (ROOT / "include" / "sql" / "capacity" / f"{question}.sql").read_text()


def _one(connection: Connection, question: str, **asked: Any) -> dict[str, Any]:
    row = connection.execute(_text(question), asked).fetchone()
    assert row is not None
    return row
