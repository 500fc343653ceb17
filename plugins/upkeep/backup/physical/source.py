"""The server whose cluster is backed up: what it is, what it lacks, and the slots that keep its log for us."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from upkeep.backup.content import query
from upkeep.backup.encryption import Key
from upkeep.backup.physical.lsn import number
from upkeep.backup.store import Store
from upkeep.errors import UpkeepError
from upkeep.postgres.session import Connection, connect

BASES, LOG = "base/", "wal/"
"""Below the prefix of a platform's cluster: base backups, and stretches of its log."""

ROLES_SQL = "include/sql/postgres/roles.sql"
PATIENCE = timedelta(minutes=1)


class SourceError(UpkeepError):
    """The server cannot be backed up like this."""


@dataclass(frozen=True)
class Job:
    """What to back up, and where to."""

    platform: str
    conninfo: str
    """As the maintenance role, which needs REPLICATION."""

    store: Store
    prefix: str
    """``cluster/``; base backups lie in ``cluster/base/``, the log in ``cluster/wal/``."""

    key: Key | None = None
    slot: str = "upkeep"
    dag_id: str = ""
    run_id: str = ""


@dataclass(frozen=True)
class Source:
    """The server, as it is now."""

    version: int
    system_identifier: str
    database: str
    superuser: str
    standby: bool
    wal_level: str
    timeline: int
    segment_bytes: int
    source_bytes: int
    tablespaces: int
    summarize: bool | None
    replication: bool
    at: datetime


@contextmanager
def session(conninfo: str) -> Iterator[Connection]:
    with connect(conninfo, statement_timeout=PATIENCE, settings={"idle_session_timeout": "0"}) as connection:
        yield connection


def look(connection: Connection) -> Source:
    """:raises SourceError: base backups or the log of this server cannot be had, and how that is mended."""
    row = connection.execute(query("cluster")).fetchone()
    assert row is not None
    found = Source(**row)
    role = connection.info.user
    if not found.replication:
        raise SourceError(
            f"role {role} has no right to replicate, and a base backup is a replica",
            hint=f"alter role {role} replication; ({ROLES_SQL} does it with -c upkeep.physical=on), and let it in:"
            f" `host replication {role} <address of the workers>/32 scram-sha-256` in pg_hba.conf.",
        )
    if found.standby:
        raise SourceError("the server is a standby", hint="let the connection lead to the primary.")
    if found.wal_level == "minimal":
        raise SourceError(
            "wal_level is minimal: its log restores nothing", hint="set wal_level = replica and restart the server."
        )
    return found


# -- slots -----------------------------------------------------------------------------------------------


def slot(connection: Connection, name: str) -> int:
    """
    The oldest place in the log that the slot of this name keeps.

    It is made where there is none, or where the server has given it up.
    """
    row = connection.execute(query("log_slot"), {"slot": name}).fetchone()
    if row is not None and row["wal_status"] not in ("lost", "unreserved") and row["begin"] is not None:
        return number(row["begin"])
    if row is not None:
        connection.execute("select pg_drop_replication_slot(%s)", [name])
    connection.execute("select pg_create_physical_replication_slot(%s, true)", [name])
    made = connection.execute(query("log_slot"), {"slot": name}).fetchone()
    assert made is not None
    return number(made["begin"])


def advance(connection: Connection, name: str, place: str) -> None:
    """The log up to here lies in the archive: the server may let go of it."""
    row = connection.execute(query("log_slot"), {"slot": name}).fetchone()
    if row is not None and row["begin"] is not None and number(row["begin"]) < number(place):
        connection.execute("select pg_replication_slot_advance(%s, %s::pg_lsn)", [name, place])


def drop(connection: Connection, name: str) -> None:
    """For a platform whose log is not kept any more: an unused slot fills the server's disk."""
    if connection.execute(query("log_slot"), {"slot": name}).fetchone() is not None:
        connection.execute("select pg_drop_replication_slot(%s)", [name])


@contextmanager
def reserved(connection: Connection) -> Iterator[None]:
    """While the block runs, the server keeps its log from now on; the slot ends with this session, however it ends."""
    name = f"upkeep_base_{secrets.token_hex(4)}"
    connection.execute("select pg_create_physical_replication_slot(%s, true, true)", [name])
    yield
    connection.execute("select pg_drop_replication_slot(%s)", [name])


@dataclass(frozen=True)
class Mark:
    """A place in the log at which a transaction of ours was about to commit."""

    place: int
    at: datetime


def mark(connection: Connection) -> Mark:
    """
    A place between two records; when this returns, the server has written its log beyond it.

    An idle server would otherwise end its log anywhere, and nobody could say until when a stretch of it reaches.
    """
    row = connection.execute("select pg_current_wal_insert_lsn()::text as place, clock_timestamp() as at").fetchone()
    assert row is not None
    with connection.transaction():
        connection.execute("set local synchronous_commit = local")
        connection.execute("select txid_current()")
    return Mark(number(row["place"]), row["at"])


def history(conninfo: str, timeline: int) -> list[tuple[int, int]]:
    """Timelines before this one, oldest first, each with the place where the next one left it."""
    import psycopg
    from psycopg.conninfo import make_conninfo

    with psycopg.connect(make_conninfo(conninfo, replication="true"), autocommit=True) as connection:
        row = connection.execute(f"TIMELINE_HISTORY {int(timeline)}".encode()).fetchone()
    assert row is not None
    content = row[1] if isinstance(row[1], str) else bytes(row[1]).decode()
    lines = [line.split() for line in content.splitlines() if line.strip() and not line.startswith("#")]
    return [(int(words[0]), number(words[1])) for words in lines]
