"""
VACUUM and ANALYZE of one table: whether it still needs it, whether it may be now, the deed, and what came of it.

Locks    ShareUpdateExclusive on that table: reads and writes go on; DDL and other maintenance are skipped for, not
         waited for.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import psycopg
from psycopg import sql

from upkeep.health.postgres_server import span
from upkeep.platforms.services import Vacuum
from upkeep.postgres.brake import Go
from upkeep.postgres.needs import Need, tables_in_need
from upkeep.postgres.rate import UNKNOWN_RATE, Rate
from upkeep.postgres.session import Connection, connect, exclusive, query, statement_timeout
from upkeep.postgres.snapshots import old_snapshot

log = logging.getLogger(__name__)

State = Literal["done", "not needed", "locked", "refused", "gone", "cancelled", "stopped", "in vain", "unconfirmed"]

RESTART_S = 30.0
"""A server that restarts is waited for this long, once per table."""

BUFFER_USAGE = "4MB"
"""Of shared buffers for one VACUUM, from PostgreSQL 16 on. 16's own 256 kB flushes WAL far more often; more than a
few megabytes evict what the application reads."""

MOST_WORKERS = 2
"""Parallel workers for large indexes; the server's max_parallel_maintenance_workers caps them as well."""

WRAPAROUND = timedelta(days=1)
"""Near wraparound a VACUUM is not cut short by the usual time-out."""


@contextmanager
def gentle(conninfo: str, settings: Vacuum) -> Iterator[Connection]:
    """A session whose VACUUM pauses as the platform file says."""
    throttle = {
        "vacuum_cost_limit": str(settings.cost_limit),
        "vacuum_cost_delay": f"{settings.cost_delay.total_seconds() * 1000:g}",
        # The question what a table needs is asked per table, and planning it takes longer than answering.
        "plan_cache_mode": "force_generic_plan",
    }
    with connect(conninfo, lock_timeout=settings.lock_timeout, settings=throttle) as connection:
        connection.prepare_threshold = 0
        yield connection


def unbraked(connection: Connection) -> Go:
    """For those who have no brake to ask."""
    return lambda: ""


def care(
    conninfo: str,
    schema: str,
    name: str,
    settings: Vacuum,
    *,
    brake: Callable[[Connection], Go] = unbraked,
    ends: datetime | None = None,
    rate: Rate = UNKNOWN_RATE,
    old: timedelta | None = None,
) -> dict[str, Any]:
    """
    VACUUM or ANALYZE one table, if it (still) needs it. A server restart in the middle is survived.

    :param brake: asked right before the work; it waits itself. Near wraparound nobody is asked.
    :param ends: when the window closes: what would not be through by then is not begun, and what runs is cancelled.
        Wraparound does not wait for windows, so freezing goes on.
    :param rate: for predicting whether it will be through in time.
    :param old: from which age on a snapshot that others hold makes VACUUM pointless; see ``tables_in_need``.
    :returns: ``state`` with its ``reason``; ``arm``, ``statement``, ``seconds``, ``predicted_s``, ``work_bytes``;
        ``before`` and ``after`` with
        ``dead_rows, live_rows, transactions_unfrozen, multixacts_unfrozen, bytes``; ``wal_bytes`` of the whole server
        meanwhile; ``in_vain`` when most dead rows stayed, and ``held_by`` whom; for ``refused`` the missing ``grant``.
    :raises psycopg.OperationalError: the server cannot be reached, or went away and stayed away.
    """

    def attempt() -> dict[str, Any]:
        with gentle(conninfo, settings) as connection:
            return care_on(connection, schema, name, settings, go=brake(connection), ends=ends, rate=rate, old=old)

    try:
        return attempt()
    except psycopg.OperationalError as lost:
        said = " ".join(str(lost).split())
        log.warning("the server went away: %s; waiting for it up to %.0f s", said, RESTART_S)
        if not _answers_within(conninfo, RESTART_S):
            raise
        return {**attempt(), "interrupted": said}


def _answers_within(conninfo: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(psycopg.OperationalError), connect(conninfo):
            return True
        time.sleep(0.5)
    return False


def care_on(
    connection: Connection,
    schema: str,
    name: str,
    settings: Vacuum,
    *,
    go: Go = lambda: "",
    ends: datetime | None = None,
    rate: Rate = UNKNOWN_RATE,
    old: timedelta | None = None,
) -> dict[str, Any]:
    """As ``care``, on a session of ``gentle`` that is there already; a restart of the server ends it."""
    with exclusive(connection, f"vacuum {schema}.{name}") as mine:
        if not mine:
            return {"state": "locked", "reason": "another run is at work on it"}
        return _care(connection, schema, name, settings, go, ends, rate, old)


def _care(
    connection: Connection,
    schema: str,
    name: str,
    settings: Vacuum,
    go: Go,
    ends: datetime | None,
    rate: Rate,
    old: timedelta | None,
) -> dict[str, Any]:
    need = _needed(connection, schema, name, settings, old)
    if need is None:
        return _NOT_NEEDED
    if not need.allowed:
        return {**_found(need, rate), **_refused(connection, need)}
    if not need.failsafe:
        asked = time.monotonic()
        if stop := go():
            return {**_found(need, rate), "state": "stopped", "reason": stop}
        if time.monotonic() - asked > 1:
            # It waited; meanwhile autovacuum may have been there.
            need = _needed(connection, schema, name, settings, old)
            if need is None:
                return _NOT_NEEDED
    found = _found(need, rate)
    if need.in_vain:
        if max(need.facts[part] for part in _STATISTICS) < settings.least_score:
            return {**found, "state": "in vain", "reason": need.in_vain}
        # Learning would take an ANALYZE for a fast VACUUM.
        need, found["work_bytes"] = replace(need, arm="analyze"), None
    most = WRAPAROUND if need.failsafe else settings.statement_timeout
    if ends and need.arm != "freeze":
        left = (ends - datetime.now(UTC)).total_seconds()
        if left <= 0:
            return {**found, "state": "stopped", "reason": "the maintenance window is over"}
        if found["predicted_s"] > left:
            reason = f"it would take about {span(found['predicted_s'])}, and the window ends in {span(left)}"
            return {**found, "state": "stopped", "reason": reason}
        most = min(most, timedelta(seconds=left))
    before = _state(connection, schema, name)
    if before is None:
        return {**found, **_GONE}
    return {**found, "arm": need.arm, **_do(connection, need, before, most)}


_STATISTICS = ("analyze_score", "root_score", "missing_score")
_NOT_NEEDED = {"state": "not needed", "reason": "it was cared for meanwhile, or autovacuum is at it now"}
_GONE = {"state": "gone", "reason": "the table was dropped meanwhile"}


def _needed(connection: Connection, schema: str, name: str, settings: Vacuum, old: timedelta | None) -> Need | None:
    return next(iter(tables_in_need(connection, settings, only=(schema, name), old=old)), None)


def _found(need: Need, rate: Rate) -> dict[str, Any]:
    return {
        "arm": need.arm,
        "because": need.because,
        "held_by": need.held_by,
        "work_bytes": need.work_bytes,
        "predicted_s": rate.seconds(need),
        "failsafe": need.failsafe,
    }


def finish(conninfo: str, settings: Vacuum) -> bool:
    """
    What VACUUM would otherwise do after each table, once after all: bring the database's own ages up to date.

    :returns: False before PostgreSQL 16, where each VACUUM has done it.
    """
    with gentle(conninfo, settings) as connection:
        if connection.info.server_version < 160000:
            return False
        with statement_timeout(connection, settings.statement_timeout):
            connection.execute("vacuum (only_database_stats)")
    return True


def _do(connection: Connection, need: Need, before: Mapping[str, Any], most: timedelta) -> dict[str, Any]:
    statement = compose(need, connection.info.server_version)
    warnings: list[tuple[str, str]] = []

    def hear(notice: psycopg.errors.Diagnostic) -> None:
        # Read here: its memory is gone once this returns.
        if notice.severity_nonlocalized == "WARNING":
            warnings.append((notice.sqlstate or "", notice.message_primary or ""))

    connection.add_notice_handler(hear)
    if need.failsafe:
        # Every second counts more than the load.
        connection.execute("set vacuum_cost_delay = 0")
    done: dict[str, Any] = {"statement": statement.as_string(connection), "before": _shown(before)}
    began = time.monotonic()
    try:
        with statement_timeout(connection, most):
            connection.execute(statement)
    except psycopg.errors.QueryCanceled:
        seconds = round(time.monotonic() - began, 3)
        late = seconds >= most.total_seconds() * 0.99
        reason = f"it was not through after {seconds:,.0f} s" if late else f"somebody cancelled it after {seconds:g} s"
        return {**done, "seconds": seconds, "state": "cancelled", "reason": reason}
    except psycopg.errors.LockNotAvailable:
        return {**done, **_locked(connection, need)}
    except psycopg.errors.InsufficientPrivilege:
        return {**done, **_refused(connection, need)}
    except psycopg.errors.UndefinedTable:
        return {**done, **_GONE}
    except psycopg.Error:
        raise
    except BaseException:
        # Whoever ends this task ends its VACUUM too.
        with contextlib.suppress(psycopg.Error):
            connection.cancel_safe(timeout=2)
        raise
    finally:
        connection.remove_notice_handler(hear)
    done["seconds"] = round(time.monotonic() - began, 3)
    # VACUUM that does nothing is a success with a warning.
    for sqlstate, said in warnings:
        if sqlstate == "55P03":
            return {**done, **_locked(connection, need)}
        if sqlstate == "42P01":
            return {**done, **_GONE}
        if "permission denied" in said or "only table or database owner" in said:
            return {**done, **_refused(connection, need)}
    after = _state_after(connection, need, before)
    if after is None:
        return {**done, **_GONE}
    if after[_counter(need)] <= before[_counter(need)] and _counted(connection, need):
        # A warning in another language, or statistics switched off: nobody knows, and that is not "done".
        reason = "; ".join(said for _, said in warnings) or "the server has not counted it"
        return {**done, "state": "unconfirmed", "reason": reason}
    wal = connection.execute(
        "select pg_wal_lsn_diff(%s::pg_lsn, %s::pg_lsn)::bigint as bytes", [after["lsn"], before["lsn"]]
    ).fetchone()
    in_vain = _in_vain(need, before, after)
    if in_vain and not need.held_by:
        done["held_by"] = str(old_snapshot(connection, timedelta(0), 0) or "")
    return {
        **done,
        "state": "done",
        "reason": "; ".join(said for _, said in warnings),
        "after": _shown(after),
        "wal_bytes": wal["bytes"] if wal else None,
        "in_vain": in_vain,
    }


def _in_vain(need: Need, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether half of what was dead, and no trifle, still is; or whether freezing has not made the table younger."""
    least = {"dead_rows": 1000}
    if need.arm == "freeze":
        least |= {"transactions_unfrozen": 10_000, "multixacts_unfrozen": 10_000}
    return need.arm != "analyze" and any(
        before[what] >= trifle and after[what] > before[what] / 2 for what, trifle in least.items()
    )


def compose(need: Need, version: int) -> sql.Composed:
    """The statement for one table on a server of ``version`` (as 170010)."""
    table = sql.Identifier(need.schema, need.name)
    modern = version >= 160000
    if need.arm == "analyze":
        options = ["skip_locked"]
        # From 18 on ANALYZE of a parent would go through its partitions, which are cared for by their own need.
        only = sql.SQL("only " if need.kind == "partitioned table" and version >= 180000 else "")
        return sql.SQL("analyze ({}) {}{}").format(sql.SQL(", ".join(options)), only, table)
    # Truncating takes an AccessExclusive lock, which standbys replay: their readers would wait or be cancelled.
    options = ["skip_locked", "truncate false"]
    if need.arm == "freeze":
        options.append("freeze")
    if need.failsafe:
        options.append("index_cleanup off")
    else:
        options.insert(0, "analyze")
        options.append(f"parallel {min(MOST_WORKERS, max(0, need.facts.get('large_indexes', 0) - 1))}")
    if modern:
        # Near wraparound all of shared buffers may be used. And one pass over pg_class per table would make many
        # tables quadratic: `finish` does that once.
        options += [f"buffer_usage_limit {0 if need.failsafe else repr(BUFFER_USAGE)}", "skip_database_stats"]
    return sql.SQL("vacuum ({}) {}").format(sql.SQL(", ".join(options)), table)


def _locked(connection: Connection, need: Need) -> dict[str, Any]:
    holder = connection.execute(query("lock_holder"), {"schema": need.schema, "name": need.name}).fetchone()
    reason = "somebody holds a lock on it"
    if holder:
        who = " ".join(part for part in (holder["user"], holder["application"]) if part)
        reason = f"pid {holder['pid']} ({who or holder['state'] or 'no name'}) holds {holder['mode']} on it"
    return {"state": "locked", "reason": reason}


def _refused(connection: Connection, need: Need) -> dict[str, Any]:
    return {
        "state": "refused",
        "reason": f"role {connection.info.user!r} may not maintain it",
        "grant": grant(connection, [need]),
    }


def grant(connection: Connection, needs: Sequence[Need]) -> str:
    """The SQL that would let this role care for these tables."""
    role = sql.Identifier(connection.info.user)
    if connection.info.server_version >= 170000:
        return sql.SQL("grant pg_maintain, pg_read_all_data to {};").format(role).as_string(connection)
    owners = sorted({need.owner for need in needs})
    return " ".join(
        sql.SQL("grant {} to {};").format(sql.Identifier(owner), role).as_string(connection) for owner in owners
    )


def _state(connection: Connection, schema: str, name: str) -> dict[str, Any] | None:
    return connection.execute(query("table_state"), {"schema": schema, "name": name}).fetchone()


def _state_after(connection: Connection, need: Need, before: Mapping[str, Any]) -> dict[str, Any] | None:
    """Before 15 the statistics arrive up to half a second after the deed."""
    deadline = time.monotonic() + (2 if _counted(connection, need) else 0)
    while (after := _state(connection, need.schema, need.name)) and after[_counter(need)] <= before[_counter(need)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return after


def _counter(need: Need) -> str:
    return "analyzes" if need.arm == "analyze" else "vacuums"


def _counted(connection: Connection, need: Need) -> bool:
    """Whether the server counts it: before 14 it did not for the parents of partitions."""
    return need.kind != "partitioned table" or connection.info.server_version >= 140000


def _shown(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key not in ("lsn", "vacuums", "analyzes")}
