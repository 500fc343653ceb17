"""Sessions of maintenance, and the questions they ask."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from upkeep.errors import CredentialsError
from upkeep.platforms.services import Vacuum
from upkeep.settings import ROOT

Connection = psycopg.Connection[dict[str, Any]]


@cache
def query(name: str) -> str:
    """The text of ``include/sql/postgres/<name>.sql``."""
    return (ROOT / "include" / "sql" / "postgres" / f"{name}.sql").read_text()


@contextmanager
def connect(conninfo: str, settings: Vacuum) -> Iterator[Connection]:
    """
    A connection of maintenance: statements on their own, short waits for locks, a throttled VACUUM.

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
                f"the server refused the maintenance role: {said}", hint="correct the connection's user and password."
            ) from None
        raise
    with contextlib.closing(connection):
        setting = {
            "statement_timeout": "10000",
            "lock_timeout": str(milliseconds(settings.lock_timeout)),
            "vacuum_cost_limit": str(settings.cost_limit),
            "vacuum_cost_delay": f"{settings.cost_delay.total_seconds() * 1000:g}",
            # PostgreSQL 14 and newer: what a killed worker left running ends by itself.
            "client_connection_check_interval": "2000",
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
    connection.execute("select set_config('statement_timeout', %s, false)", [str(milliseconds(most))])
    try:
        yield
    finally:
        with contextlib.suppress(psycopg.OperationalError):
            connection.execute("select set_config('statement_timeout', '10000', false)")


def milliseconds(length: timedelta) -> int:
    return max(1, int(length.total_seconds() * 1000))
