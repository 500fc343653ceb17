"""Sessions of maintenance, and the questions they ask."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from upkeep.errors import CredentialsError
from upkeep.settings import ROOT

Connection = psycopg.Connection[dict[str, Any]]

SHORT = timedelta(seconds=10)
"""For statements that should take no time; work says for itself how long it may take."""


@cache
def query(name: str) -> str:
    """The text of ``include/sql/postgres/<name>.sql``."""
    return (ROOT / "include" / "sql" / "postgres" / f"{name}.sql").read_text()


@contextmanager
def connect(
    conninfo: str,
    *,
    lock_timeout: timedelta = timedelta(seconds=2),
    statement_timeout: timedelta = SHORT,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Connection]:
    """
    A connection of maintenance: autocommit, rows as dictionaries, short waits for locks.

    :param settings: of the session, beside these; those that the server's version does not know are left out.
    :raises CredentialsError: the server refused the role. :raises psycopg.OperationalError: it cannot be reached.
    """
    try:
        connection: Connection = psycopg.connect(
            make_conninfo(conninfo, application_name="upkeep"), autocommit=True, row_factory=dict_row
        )
    except psycopg.OperationalError as refused:
        said = " ".join(str(refused).split())
        if re.search(
            r"authentication failed|no password supplied|pg_hba\.conf|(role|database) \S+ does not exist", said
        ):
            raise CredentialsError(
                f"the server refused the role of maintenance: {said}",
                hint="correct the connection's user and password.",
            ) from None
        raise
    with contextlib.closing(connection):
        setting = {
            "statement_timeout": str(milliseconds(statement_timeout)),
            "lock_timeout": str(milliseconds(lock_timeout)),
            # PostgreSQL 14 and newer: what a killed worker left running ends by itself.
            "client_connection_check_interval": "2000",
            # Questions to large catalogs look expensive to the planner; compiling them would take longer than they do.
            "jit": "off",
            **settings,
        }
        connection.execute(
            "select set_config(s.name, %(setting)s::jsonb ->> s.name, false) from pg_settings as s"
            " where s.name = any(%(names)s)",
            {"setting": Jsonb(setting), "names": list(setting)},
        )
        yield connection


@contextmanager
def statement_timeout(connection: Connection, most: timedelta) -> Iterator[None]:
    """Let the statements of the block take ``most``."""
    row = connection.execute("select current_setting('statement_timeout') as usual").fetchone()
    connection.execute("select set_config('statement_timeout', %s, false)", [str(milliseconds(most))])
    try:
        yield
    finally:
        with contextlib.suppress(psycopg.OperationalError):
            usual = row["usual"] if row else str(milliseconds(SHORT))
            connection.execute("select set_config('statement_timeout', %s, false)", [usual])


@contextmanager
def exclusive(connection: Connection, job: str) -> Iterator[bool]:
    """
    Whether no other session does ``job`` (``reindex``, ``vacuum public.users``) in this database now.

    Held, if so, until the block ends or the connection is lost: an advisory lock, so nothing is left behind.
    """
    lock = ["upkeep", job]
    row = connection.execute("select pg_try_advisory_lock(hashtext(%s), hashtext(%s)) as mine", lock).fetchone()
    mine = bool(row and row["mine"])
    try:
        yield mine
    finally:
        if mine:
            with contextlib.suppress(psycopg.OperationalError):
                connection.execute("select pg_advisory_unlock(hashtext(%s), hashtext(%s))", lock)


def milliseconds(length: timedelta) -> int:
    return max(1, int(length.total_seconds() * 1000))
