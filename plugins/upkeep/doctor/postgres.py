"""A platform's database: server, roles and rights, each with the statement that grants it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import psycopg
from psycopg.rows import dict_row

from upkeep.backup.restore.target import missing_rights
from upkeep.doctor.verdict import fine, missing, note, unseen
from upkeep.findings import Outcome
from upkeep.health.side_by_side import one_line
from upkeep.platforms import Platform
from upkeep.platforms.backup import ClusterBackup
from upkeep.settings import ROOT

OLDEST, NEWEST = 13, 19
"""Major versions that Upkeep knows."""

ROLES_SQL = "include/sql/postgres/roles.sql"
SHOWN = 5

Connection = psycopg.Connection[dict[str, Any]]


def maintenance(conninfo: str, conn_id: str, platform: Platform) -> list[Outcome]:
    """
    The maintenance role: looks, vacuums, reindexes, and writes only the canary.

    :raises psycopg.Error: the connection broke while it was looked at.
    """
    return _examine(conninfo, conn_id, platform, owner=False)


def owner(conninfo: str, conn_id: str, platform: Platform) -> list[Outcome]:
    """The role that acts as the owner of the tables. :raises psycopg.Error: the connection broke."""
    return _examine(conninfo, conn_id, platform, owner=True)


def connect(conninfo: str, conn_id: str) -> Connection | Outcome:
    """A connection with short time-outs, or what keeps us out."""
    try:
        target = psycopg.conninfo.make_conninfo(conninfo, connect_timeout=3)
        connection: Connection = psycopg.connect(target, autocommit=True, row_factory=dict_row)
        connection.execute("set statement_timeout = '3s'")
    except psycopg.Error as refused:
        return missing(
            "connect",
            conn_id,
            one_line(refused),
            f"correct host, port, login, password or schema of connection {conn_id}, or start the server; "
            f"{ROLES_SQL} makes the roles",
        )
    return connection


def _examine(conninfo: str, conn_id: str, platform: Platform, *, owner: bool) -> list[Outcome]:
    connection = connect(conninfo, conn_id)
    if isinstance(connection, Outcome):
        return [connection]
    with connection:
        (me,) = ask(connection, "identity")
        outcomes = [_server(me, conn_id), *_caveats(me, conn_id)]
        rights = _owner_rights if owner else _maintenance_rights
        try:
            outcomes += rights(connection, me, conn_id, platform)
        except psycopg.errors.InsufficientPrivilege as refused:
            outcomes.append(unseen("rights", conn_id, one_line(refused), cure=f"run {ROLES_SQL} in {me['database']}"))
    return outcomes


def ask(connection: Connection, question: str, **parameters: Any) -> list[dict[str, Any]]:
    """The rows of ``include/sql/doctor/<question>.sql``."""
    text = (ROOT / "include" / "sql" / "doctor" / f"{question}.sql").read_bytes()
    return connection.execute(text, parameters or None).fetchall()


# -- the server ------------------------------------------------------------------------------------------


def _server(me: dict[str, Any], conn_id: str) -> Outcome:
    major = me["version"] // 10000
    said = f"PostgreSQL {me['version_name']}, {me['role']} in {me['database']}"
    if major < OLDEST:
        return missing("connect", conn_id, f"{said}: older than {OLDEST}", f"upgrade the server to {OLDEST} or newer")
    if major > NEWEST:
        return note("connect", conn_id, f"{said}: newer than {NEWEST}, which this Upkeep was made for", "update Upkeep")
    return fine("connect", conn_id, f"{said}{', TLS' if me['encrypted'] else ''}")


def _caveats(me: dict[str, Any], conn_id: str) -> Iterator[Outcome]:
    if me["standby"]:
        yield missing("primary", conn_id, "the server is a standby", f"let connection {conn_id} lead to the primary")
    if me["superuser"]:
        yield note(
            "superuser",
            conn_id,
            f"{me['role']} is a superuser, more than Upkeep needs",
            f"run {ROLES_SQL} and log in with its roles, or: alter role {me['role']} nosuperuser;",
        )
    if not me["encrypted"] and not me["local"]:
        yield note("encryption", conn_id, "not encrypted on its way", 'put {"sslmode": "verify-full"} into the extra')


# -- rights ----------------------------------------------------------------------------------------------


def _maintenance_rights(
    connection: Connection, me: dict[str, Any], conn_id: str, platform: Platform
) -> Iterator[Outcome]:
    roles = {row["role"]: row for row in ask(connection, "memberships", names=["pg_monitor", "pg_read_all_data"])}
    for role, row in roles.items():
        if row["held"]:
            yield fine(role, conn_id, "held")
        elif row["known"]:
            yield missing(role, conn_id, f"{me['role']} has not the rights of {role}", f"grant {role} to {me['role']};")
        else:  # PostgreSQL 13
            schemas = f"grant select on all tables in schema public to {me['role']};"
            yield note(role, conn_id, f"this version has no {role}", schemas)
    yield _may_maintain(connection, me, conn_id)
    yield _may_probe(connection, me, conn_id)
    yield _may_read_files(connection, me, conn_id)
    yield _may_sample(connection, me, conn_id)
    if platform.backup is not None and platform.backup.cluster is not None:
        yield from _may_replicate(connection, me, conn_id, platform.backup.cluster)
    yield from _extensions(connection, me, conn_id)
    yield from _named(connection, conn_id, platform)


def _may_sample(connection: Connection, me: dict[str, Any], conn_id: str) -> Outcome:
    """A caveat and no lack: without it bloat is told by pgstatindex, or by comparing indexes with themselves."""
    name = "page_sampler"
    (sampler,) = ask(connection, "page_sampler")
    if sampler["there"] and sampler["allowed"]:
        return fine(name, conn_id, "upkeep.sample_index_pages may be called")
    if sampler["there"]:
        grant = f"grant execute on function upkeep.sample_index_pages(regclass, int) to {me['role']};"
        return note(name, conn_id, "may not call upkeep.sample_index_pages", grant)
    cure = f"run {ROLES_SQL}"
    if not sampler["available"]:
        cure = f"install the server's contrib package (postgresql-contrib); {cure}"
    return note(name, conn_id, "no function upkeep.sample_index_pages: bloat is told more slowly", cure)


def _may_replicate(
    connection: Connection, me: dict[str, Any], conn_id: str, cluster: ClusterBackup
) -> Iterator[Outcome]:
    """Base backups and the log come by a door of their own in pg_hba.conf, to roles that may replicate."""
    name = "replication"
    (can,) = ask(connection, "replication")
    if not can["allowed"]:
        yield missing(
            name,
            conn_id,
            f"{me['role']} may not copy the cluster (backup.cluster)",
            f"alter role {me['role']} replication;",
        )
        return
    if can["wal_level"] == "minimal":
        cure = "alter system set wal_level = 'replica';\n-- then restart the server"
        yield missing("wal_level", conn_id, "minimal: its log restores nothing", cure)
    if cluster.full_every is not None and not can["summarizes"]:
        cure = "alter system set summarize_wal = on;\nselect pg_reload_conf();\n-- before 17: leave out full_every"
        yield missing("summarize_wal", conn_id, "off: nobody knows what changed since a base backup", cure)
    if can["tablespaces"]:
        cure = "move their tables into pg_default, or leave out backup.cluster: the dump holds them"
        yield missing("tablespaces", conn_id, f"{can['tablespaces']} beside pg_default: they cannot be streamed", cure)
    info = connection.info
    target = psycopg.conninfo.make_conninfo(info.dsn, password=info.password, replication="true", connect_timeout=3)
    try:
        psycopg.connect(target, autocommit=True).close()
    except psycopg.OperationalError as refused:
        line = f"add to pg_hba.conf: host replication {me['role']} <address of the workers>/32 scram-sha-256"
        yield missing(name, conn_id, one_line(refused), f"{line}\nselect pg_reload_conf();")
        return
    yield fine(name, conn_id, "the cluster and its log may be copied")


def _may_maintain(connection: Connection, me: dict[str, Any], conn_id: str) -> Outcome:
    say = partial(missing, "vacuum", conn_id)
    (maintain,) = ask(connection, "memberships", names=["pg_maintain"])
    if maintain["held"]:
        return fine("vacuum", conn_id, "by pg_maintain")
    foreign = ask(connection, "foreign_owners")
    if not foreign:
        return fine("vacuum", conn_id, "as owner of every table")
    tables = sum(row["tables"] for row in foreign)
    if maintain["known"]:
        return say(f"may not vacuum {tables} tables", f"grant pg_maintain to {me['role']};")
    grants = "\n".join(f"grant {row['owner']} to {me['role']};" for row in foreign)
    return say(f"may not vacuum {tables} tables, of {', '.join(row['owner'] for row in foreign)}", grants)


def _may_probe(connection: Connection, me: dict[str, Any], conn_id: str) -> Outcome:
    (canary,) = ask(connection, "canary")
    if not canary["there"]:
        return missing("canary", conn_id, "no table upkeep.canary for the write probe", f"run {ROLES_SQL}")
    grants = [] if canary["enter"] else [f"grant usage on schema upkeep to {me['role']};"]
    if canary["missing"]:
        grants.append(f"grant {', '.join(canary['missing'])} on upkeep.canary to {me['role']};")
    if grants:
        return missing("canary", conn_id, f"{me['role']} may not write into upkeep.canary", "\n".join(grants))
    return fine("canary", conn_id, "may be written")


def _may_read_files(connection: Connection, me: dict[str, Any], conn_id: str) -> Outcome:
    (files,) = ask(connection, "file_settings")
    if files["allowed"]:
        return fine("settings", conn_id, "the configuration files may be read")
    grants = (
        f"grant select on pg_catalog.pg_file_settings to {me['role']};\n"
        f"grant execute on function pg_catalog.pg_show_all_file_settings() to {me['role']};"
    )
    return note("settings", conn_id, "mistakes in the configuration files stay unseen until the next start", grants)


def _extensions(connection: Connection, me: dict[str, Any], conn_id: str) -> Iterator[Outcome]:
    known = {row["name"]: row for row in ask(connection, "extensions", names=["pg_stat_statements", "amcheck"])}
    for name, row in known.items():
        if row["installed"]:
            judge = _statements if name == "pg_stat_statements" else _amcheck
            yield judge(connection, me, conn_id, row)
        elif row["available"]:
            yield missing(name, conn_id, f"extension not in {me['database']}", f"create extension {name};")
        else:
            package = "the server's contrib package (postgresql-contrib)"
            yield missing(name, conn_id, "the server does not have it", f"install {package}; create extension {name};")


def _statements(connection: Connection, me: dict[str, Any], conn_id: str, row: dict[str, Any]) -> Outcome:
    name = "pg_stat_statements"
    try:
        connection.execute(f"select from {row['schema']}.pg_stat_statements limit 1")
    except psycopg.errors.ObjectNotInPrerequisiteState:
        loaded = [library for library in (me["preloaded"] or "").split(",") if library.strip()]
        libraries = ",".join([*loaded, name])
        cure = f"alter system set shared_preload_libraries = '{libraries}';\n-- then restart the server"
        return missing(name, conn_id, "installed, but not preloaded: it counts nothing", cure)
    if not row["asks_ids"]:
        cure = "alter system set compute_query_id = 'auto';\nselect pg_reload_conf();"
        return missing(name, conn_id, "compute_query_id is off: it counts nothing", cure)
    return fine(name, conn_id, f"{row['installed']}, preloaded")


def _amcheck(connection: Connection, me: dict[str, Any], conn_id: str, row: dict[str, Any]) -> Outcome:
    forbidden = [found["function"] for found in ask(connection, "forbidden_functions", extension="amcheck")]
    if not forbidden:
        return fine("amcheck", conn_id, f"{row['installed']}, may be called")
    grants = "\n".join(f"grant execute on function {function} to {me['role']};" for function in forbidden)
    return missing("amcheck", conn_id, f"may not call {len(forbidden)} of its functions", grants)


def _owner_rights(connection: Connection, me: dict[str, Any], conn_id: str, platform: Platform) -> Iterator[Outcome]:
    foreign = ask(connection, "foreign_owners")
    if foreign:
        grants = "\n".join(f"grant {row['owner']} to {me['role']};" for row in foreign)
        tables = sum(row["tables"] for row in foreign)
        owners = ", ".join(row["owner"] for row in foreign)
        yield missing("owner", conn_id, f"no member of {owners}, owner of {tables} tables", grants)
    else:
        yield fine("owner", conn_id, "acts as owner of every table")
    if platform.backup and platform.backup.database and platform.backup.database.restore:
        yield _may_restore(connection, me, conn_id)


def _may_restore(connection: Connection, me: dict[str, Any], conn_id: str) -> Outcome:
    """Only where the platform file wants restores: making databases is no right to give away unasked."""
    lacking = missing_rights(connection, me["database"])
    if not lacking:
        return fine("restore", conn_id, "may make a database and swap it in")
    said = "; ".join(said for said, _ in lacking)
    return missing("restore", conn_id, said, "\n".join(grant for _, grant in lacking))


def _named(connection: Connection, conn_id: str, platform: Platform) -> Iterator[Outcome]:
    """Whether the platform file speaks of tables and columns that exist."""
    settings = platform.postgres
    wanted = [(table.name, table.retention.column) for table in settings.tables if table.retention] if settings else []
    wanted += [(growth.table, growth.column) for growth in platform.capacity.growth] if platform.capacity else []
    wanted = list(dict.fromkeys(wanted))
    rows = ask(connection, "columns", tables=[table for table, _ in wanted], columns=[column for _, column in wanted])
    wrong = [row for row in rows if not (row["kind"] or "").startswith(("timestamp", "date"))]
    for row in wrong[:SHOWN]:
        column = f"{row['table']}.{row['column']}"
        said = f"{column} is a {row['kind']}, not a time" if row["kind"] else f"no column {column} in the database"
        yield missing(
            "columns", conn_id, said, f"correct `postgres.tables` or `capacity.growth` in {platform.name}.yaml"
        )
    if not wrong:
        yield fine("columns", conn_id, f"all {len(rows)} that the file names are there")
