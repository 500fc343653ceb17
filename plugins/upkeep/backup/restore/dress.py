"""What a database has beside its content: owner, rights, settings, limits. A restored one gets those of the living."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql

from upkeep.backup import content
from upkeep.backup.restore.choose import RefusedError
from upkeep.backup.restore.target import Database, look
from upkeep.postgres.session import Connection

LISTS = frozenset(
    {
        "local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries",
        "temp_tablespaces", "unix_socket_directories",
    }
)  # fmt: skip
"""Settings whose value is a list of names (GUC_LIST_QUOTE), as pg_dump treats them, too."""

_NAMES = re.compile(r'"((?:[^"]|"")*)"|([^,\s"]+)')


def dress(connection: Connection, come: str, live: Database) -> list[str]:
    """
    Give database ``come`` what ``live`` has, as far as this role may.

    :returns: the statements that somebody with more rights must run, in ``come``'s name; none when it is like it.
    """
    there = look(connection, come)
    if there is None:
        raise RefusedError(f"there is no database {come}", hint="somebody dropped or renamed it; restore it anew.")
    wanted = [*_plain(there, live), *_rights(connection, come, live.name), *_settings(connection, come, live.name)]
    refused = []
    for statement in wanted:
        try:
            connection.execute(statement)
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedObject):
            refused.append(statement.as_string(connection) + ";")
    return refused


def _plain(there: Database, live: Database) -> list[sql.Composed]:
    name, made = sql.Identifier(there.name), []
    if there.owner != live.owner:
        made.append(sql.SQL("alter database {} owner to {}").format(name, sql.Identifier(live.owner)))
    if there.connection_limit != live.connection_limit:
        limit = sql.Literal(live.connection_limit)
        made.append(sql.SQL("alter database {} connection limit {}").format(name, limit))
    return made


def _rights(connection: Connection, come: str, live: str) -> list[sql.Composed]:
    wanted, there = _granted(connection, live), _granted(connection, come)
    name, made = sql.Identifier(come), []
    for grantee, privilege, grantable in sorted(there - wanted):
        if (grantee, privilege, not grantable) not in wanted:
            what = sql.SQL("revoke {} on database {} from {}")
            made.append(what.format(sql.SQL(privilege), name, _role(grantee)))
    for grantee, privilege, grantable in sorted(wanted - there):
        what = sql.SQL("grant {} on database {} to {}" + (" with grant option" if grantable else ""))
        made.append(what.format(sql.SQL(privilege), name, _role(grantee)))
    return made


def _granted(connection: Connection, name: str) -> set[tuple[str, str, bool]]:
    rows = connection.execute(content.query("database_rights"), {"name": name}).fetchall()
    return {(row["grantee"], row["privilege"], row["grantable"]) for row in rows}


def _role(name: str) -> sql.Composable:
    return sql.Identifier(name) if name else sql.SQL("public")


def _settings(connection: Connection, come: str, live: str) -> list[sql.Composed]:
    wanted, there = _set(connection, live), _set(connection, come)
    made = []
    for key in sorted(there.keys() - wanted.keys()):
        made.append(sql.SQL("{} reset {}").format(_of(key[0], come), _parameter(key[1])))
    for key, value in sorted(wanted.items()):
        if there.get(key) != value:
            made.append(sql.SQL("{} set {} to {}").format(_of(key[0], come), _parameter(key[1]), _value(key[1], value)))
    return made


def _set(connection: Connection, name: str) -> Mapping[tuple[str, str], str]:
    rows: list[dict[str, Any]] = connection.execute(content.query("database_settings"), {"name": name}).fetchall()
    return {(row["role"], row["name"]): row["value"] for row in rows}


def _of(role: str, database: str) -> sql.Composed:
    if role:
        return sql.SQL("alter role {} in database {}").format(sql.Identifier(role), sql.Identifier(database))
    return sql.SQL("alter database {}").format(sql.Identifier(database))


def _parameter(name: str) -> sql.Composable:
    """``work_mem`` or ``app.tenant``."""
    return sql.SQL(".").join(sql.Identifier(part) for part in name.split("."))


def _value(name: str, value: str) -> sql.Composable:
    if name.lower() not in LISTS:
        return sql.Literal(value)
    names = [quoted.replace('""', '"') if quoted else bare for quoted, bare in _NAMES.findall(value)]
    return sql.SQL(", ").join(sql.Literal(one) for one in names) if names else sql.Literal("")
