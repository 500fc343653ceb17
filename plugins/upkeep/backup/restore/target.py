"""The databases of a restore: which is which, what the role may do with them, making one, removing one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from upkeep.backup import content
from upkeep.backup.restore.choose import RefusedError
from upkeep.backup.restore.record import Restore
from upkeep.postgres.session import Connection, connect

BESIDE = "postgres"
"""From this database the others are made, renamed and removed."""

CREATE = timedelta(minutes=10)
ROLES_SQL = "include/sql/postgres/roles.sql"


@dataclass(frozen=True)
class Database:
    """One database of the server."""

    oid: int
    name: str
    owner: str
    encoding: str
    lc_collate: str
    lc_ctype: str
    provider: str | None
    locale: str | None
    tablespace: str
    connection_limit: int
    comment: str
    bytes: int | None


def name_in(conninfo: str) -> str:
    """The database that a connection string means."""
    said = conninfo_to_dict(conninfo)
    return str(said.get("dbname") or said.get("user") or "")


def beside(conninfo: str, name: str = BESIDE) -> str:
    """The same server and role, another database."""
    return make_conninfo(conninfo, dbname=name)


@contextmanager
def server(conninfo: str) -> Iterator[Connection]:
    """A session beside the databases that are worked on. :raises psycopg.Error: it cannot be had."""
    with connect(beside(conninfo), statement_timeout=timedelta(seconds=30)) as connection:
        yield connection


def look(connection: Connection, name: str) -> Database | None:
    """A database by its name; None when there is none."""
    row = connection.execute(content.query("database"), {"name": name}).fetchone()
    return Database(**row) if row else None


def named(connection: Connection, oid: int | None) -> str:
    """What the database with this oid is called now; empty when there is none."""
    row = connection.execute("select datname::text as name from pg_database where oid = %s", [oid]).fetchone()
    return str(row["name"]) if row else ""


def missing_rights(connection: Connection, live: str, *, swaps: bool = True) -> list[tuple[str, str]]:
    """
    What this role lacks to restore ``live``, each with the statement that grants it.

    :param swaps: False for a restore beside it.
    """
    row = connection.execute(content.query("restore_rights"), {"name": live}).fetchone()
    assert row is not None
    role, owner = row["quoted_role"], row["quoted_owner"]
    lacking = []
    if not row["createdb"]:
        lacking.append((f"{row['role']} may not create databases", f"alter role {role} createdb;"))
    if row["owner"] and not (row["owns"] and row["becomes"]):
        lacking.append((f"{row['role']} may not act as {row['owner']}, owner of {live}", f"grant {owner} to {role};"))
    if swaps and not row["signals"]:
        lacking.append((f"{row['role']} may not end sessions of others", f"grant pg_signal_backend to {role};"))
    return lacking


def marker(restore: Restore) -> str:
    """The comment by which a database that was made here is known."""
    return json.dumps({"upkeep": "restore", "id": restore.id, "backup": restore.backup})


def is_ours(connection: Connection, found: Database, restore: Restore) -> bool:
    """
    Whether a database of the new one's name was made by this restore.

    One that was killed between making and marking it left it without a comment; the ledger then says that it was
    about to, and that the name was free.
    """
    if found.oid == restore.made_oid or found.comment == marker(restore):
        return True
    return restore.state == "loading" and not found.comment


def make(connection: Connection, restore: Restore, like: Database | None, owner: str, template: str) -> Database:
    """
    The new database, empty, for nobody but its owner; an earlier try's is removed first.

    :param like: the living one, whose encoding and locale it gets; None when that is gone.
    :raises RefusedError: there is a database of that name, and it is not ours.
    """
    if (found := look(connection, restore.made)) is not None:
        if not is_ours(connection, found, restore):
            raise RefusedError(
                f"there is a database {restore.made}, and this restore did not make it",
                hint="look what it is; rename or drop it by hand, then clear this task.",
            )
        drop(connection, restore)
    parts: list[sql.Composable] = [
        sql.SQL("create database {} owner {} template {}").format(
            sql.Identifier(restore.made), sql.Identifier(owner), sql.Identifier(template)
        )
    ]
    if like is not None:
        parts += _like(like)
    connection.execute(f"set statement_timeout = {int(CREATE.total_seconds() * 1000)}")
    try:
        connection.execute(sql.SQL(" ").join(parts))
    except psycopg.Error as no:
        raise RefusedError(
            f"database {restore.made} cannot be made: {no.diag.message_primary}",
            hint=no.diag.message_hint or f"see `python -m upkeep check`; {ROLES_SQL} gives the rights.",
        ) from None
    _created()
    # Rows that were erased since are in it until they are erased again.
    database = sql.Identifier(restore.made)
    connection.execute(sql.SQL("revoke connect, temporary on database {} from public").format(database))
    connection.execute(sql.SQL("comment on database {} is {}").format(database, sql.Literal(marker(restore))))
    made = look(connection, restore.made)
    assert made is not None
    return made


def _created() -> None:
    """Between making and marking: tests kill here."""


def _like(like: Database) -> Iterator[sql.Composable]:
    for word, value in (("encoding", like.encoding), ("lc_collate", like.lc_collate), ("lc_ctype", like.lc_ctype)):
        yield sql.SQL(word + " {}").format(sql.Literal(value))
    if like.provider == "i":
        yield sql.SQL("locale_provider icu icu_locale {}").format(sql.Literal(like.locale))
    elif like.provider == "b":
        yield sql.SQL("locale_provider builtin builtin_locale {}").format(sql.Literal(like.locale))
    if like.tablespace != "pg_default":
        yield sql.SQL("tablespace {}").format(sql.Identifier(like.tablespace))


def drop(connection: Connection, restore: Restore) -> bool:
    """
    Remove the new database, whoever is in it; False when it is gone already.

    :raises RefusedError: it is not ours, or it is the one in use.
    """
    found = look(connection, restore.made)
    if found is None:
        return False
    if restore.made == restore.live or not is_ours(connection, found, restore):
        raise RefusedError(
            f"database {restore.made} was not made by restore {restore.id}, and is left alone",
            hint="look what it is; nothing but what this restore made is ever dropped by it.",
        )
    _drop(connection, restore.made)
    return True


def drop_old(connection: Connection, restore: Restore) -> bool:
    """Remove the database that was replaced; False when it is gone already. :raises RefusedError: it is another."""
    found = look(connection, restore.before)
    if found is None:
        return False
    if restore.state != "swapped" or found.oid != restore.live_oid:
        raise RefusedError(
            f"database {restore.before} is not the one that restore {restore.id} replaced",
            hint="look what it is; nothing else is ever dropped by this.",
        )
    _drop(connection, restore.before)
    return True


def _drop(connection: Connection, name: str) -> None:
    try:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
    except psycopg.errors.ObjectInUse as used:
        raise RefusedError(
            f"database {name} is in use: {used.diag.message_detail or used.diag.message_primary}",
            hint="end that use (sessions of superusers, prepared transactions, logical slots), then clear this task.",
        ) from None
    except psycopg.errors.InsufficientPrivilege as no:
        raise RefusedError(
            f"database {name} cannot be dropped: {no.diag.message_primary}",
            hint="sessions of superusers can only be ended by one; then clear this task.",
        ) from None
