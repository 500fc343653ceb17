"""
Dropping a whole expired partition: detached concurrently, so that nobody waits, archived where the rule says so.

Each step leaves the partition in a state from which the next attempt goes on: attached, half detached, detached, gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from upkeep.errors import SettingsError
from upkeep.postgres.session import Connection, statement_timeout
from upkeep.retention import progress as progress_of
from upkeep.retention import statements
from upkeep.retention.archive import Archive
from upkeep.retention.items import Item
from upkeep.retention.work import Record, Result, session

DETACH = timedelta(minutes=10)
"""Detaching waits for every transaction that uses the parent; it blocks nobody meanwhile."""


def drop(
    conninfo: str,
    item: Item,
    *,
    plan: str,
    record: Record,
    go: Callable[[], str] = lambda: "",
    ends: datetime | None = None,
    archive: Archive | None = None,
) -> Result:
    """
    Drop the partition ``item``, all of whose rows may go; whatever speaks against it leaves it as it is.

    :param conninfo: as the owner role.
    """
    if item.archive and archive is None:
        raise ValueError(f"{item.table}: its rule wants an archive")
    began, result = time.monotonic(), Result()
    with session(conninfo) as connection, statement_timeout(connection, _most(ends)):
        record.catch_up(connection)
        progress = progress_of.start(connection, item, plan)
        remember = "update upkeep.retention set item = %s where relation = %s"
        connection.execute(remember, [Jsonb(item.as_dict()), item.table])
        result.deleted = progress.deleted
        if not progress.deleted:
            if reason := go():
                result.state, result.reason = "stopped", reason
            else:
                _step_by_step(connection, item, progress, archive if item.archive else None, result)
        record.catch_up(connection)
    result.seconds = round(time.monotonic() - began, 3)
    return result


def _most(ends: datetime | None) -> timedelta:
    left = ends - datetime.now(UTC) if ends else DETACH
    return max(timedelta(seconds=1), min(left, DETACH))


def _step_by_step(
    connection: Connection, item: Item, progress: progress_of.Progress, archive: Archive | None, result: Result
) -> None:
    try:
        state = _attachment(connection, item)
        if state == "attached":
            if stays := _stays(connection, item):
                result.state, result.reason = "stopped", stays
                return
            _detach(connection, item, "concurrently")
        elif state == "pending":
            _detach(connection, item, "finalize")
        result.archives = _drop(connection, item, progress, archive)
        result.deleted = progress.deleted
    except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable) as late:
        result.state, result.reason = "stopped", f"somebody uses it: {' '.join(str(late).split())}"
    except _Stays as stays_now:
        # Changed between the look and the detaching: back to where it was.
        connection.execute(
            sql.SQL("alter table {} attach partition {} {}").format(
                sql.SQL(item.parent), statements.table(item), sql.SQL(item.bound)
            )
        )
        result.state, result.reason = "stopped", str(stays_now)


class _Stays(Exception):
    """Rows that may not go."""


def _attachment(connection: Connection, item: Item) -> str:
    row = connection.execute(
        "select to_jsonb(i) ->> 'inhdetachpending' as pending from pg_class as c"
        " left join pg_inherits as i on i.inhrelid = c.oid where c.oid = to_regclass(%s)",
        [statements.table(item).as_string(connection)],
    ).fetchone()
    if row is None:
        return "gone"
    return {"true": "pending", "false": "attached"}.get(row["pending"], "detached")


def _detach(connection: Connection, item: Item, how: str) -> None:
    connection.execute(
        sql.SQL("alter table {} detach partition {} {}").format(
            sql.SQL(item.parent), statements.table(item), sql.SQL(how)
        )
    )


def _stays(connection: Connection, item: Item) -> str:
    counting = sql.SQL("select count(*) as n from {} where ({}) is not true")
    row = connection.execute(
        counting.format(statements.table(item), statements.may_go(item)), {"cut_off": item.cut_off}
    ).fetchone()
    return f"{row['n']:,} of its rows stay" if row and row["n"] else ""


def _drop(connection: Connection, item: Item, progress: progress_of.Progress, archive: Archive | None) -> int:
    """Archive, then drop and write down in one transaction; how many archives."""
    if _attachment(connection, item) == "gone":
        return 0
    copied, folder = 0, None
    if archive is not None:
        folder = f"{archive.prefix}{item.table}/{progress.plan[:16]}/"
        archive.sweep(item.table, None)
        while (segment := archive.write(connection, item, progress)) is not None:
            copied += len(segment.tids)
            progress.segments += 1
            progress.after_key, progress.after_tid = segment.last_key, segment.last_tid
    with connection.transaction():
        connection.execute(sql.SQL("lock table {} in access exclusive mode").format(statements.table(item)))
        if stays := _stays(connection, item):
            raise _Stays(stays)
        count = connection.execute(
            sql.SQL(
                "insert into upkeep.deletions (relation, plan, cut_off, key_column, condition, from_key, to_key, rows,"
                " ids, archive) select %(relation)s, %(plan)s, %(cut_off)s::timestamptz, %(column)s, %(condition)s,"
                " coalesce(min({key})::text, ''), coalesce(max({key})::text, ''), count(*), sum({identity}::numeric),"
                " %(archive)s from {table} returning rows"
            ).format(key=statements.key(item), identity=statements.identity(item), table=statements.table(item)),
            {
                "relation": item.table,
                "plan": progress.plan,
                "cut_off": item.cut_off,
                "column": item.column,
                "condition": statements.condition(item),
                "archive": folder,
            },
        ).fetchone()
        assert count is not None
        if archive is not None and count["rows"] != copied:
            raise _Stays(f"{copied:,} rows were archived and {count['rows']:,} are there")
        connection.execute(sql.SQL("drop table {}").format(statements.table(item)))
        progress.deleted, progress.batches, progress.archive = count["rows"], 1, folder
        progress_of.write(connection, progress)
    if archive is not None:
        _finish(connection, archive, item.table, str(folder))
    return progress.segments


def _finish(connection: Connection, archive: Archive, relation: str, folder: str) -> None:
    archive.finish_folder(folder)
    connection.execute("update upkeep.retention set archive = null where relation = %s", [relation])


def unfinished(conninfo: str, archive: Archive | None) -> list[Item]:
    """
    Partitions that an attempt detached and did not come to drop; what it archived and dropped is finished here.

    :raises SettingsError: the owner role cannot use the tables in which progress is kept.
    """
    found = []
    with session(conninfo) as connection:
        try:
            rows = connection.execute("select relation, item, archive from upkeep.retention where item is not null")
        except (
            psycopg.errors.UndefinedTable,
            psycopg.errors.UndefinedColumn,
            psycopg.errors.InsufficientPrivilege,
        ) as no:
            raise SettingsError(
                f"retention cannot keep its progress: {no.diag.message_primary}",
                hint="run include/sql/postgres/roles.sql in this database, again if need be; it adds what is missing.",
            ) from None
        for row in rows.fetchall():
            item = Item.from_dict(row["item"])
            state = _attachment(connection, item)
            if state == "detached":
                found.append(item)
            elif state == "gone" and row["archive"] and archive is not None:
                _finish(connection, archive, row["relation"], row["archive"])
    return found
