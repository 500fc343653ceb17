"""
VACUUM and ANALYZE, chosen by need and done table by table.

Need is the score by which PostgreSQL 19 orders autovacuum's work, computed in SQL so that it is the same on every
version: the largest ratio of dead, inserted or changed rows, or of age, to autovacuum's own threshold.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import psycopg
from psycopg import sql

from upkeep.errors import SettingsError
from upkeep.platforms.services import Vacuum
from upkeep.postgres.session import Connection, connect, query, statement_timeout

Arm = Literal["freeze", "vacuum", "analyze"]

FREEZE_FROM = 0.6
"""Share of autovacuum_freeze_max_age from which a table is frozen here, in the window and with its manners, before
autovacuum does it at any hour and yields to nobody."""

OLD_SNAPSHOT = timedelta(minutes=5)
OLD_SNAPSHOT_TRANSACTIONS = 1_000_000
"""From here on whoever holds the oldest snapshot is named: sessions by time; slots by transactions."""

CHOOSE_S = 60
"""For the choosing query; 10,000 tables take well below a second."""


def gentle(conninfo: str, settings: Vacuum) -> AbstractContextManager[Connection]:
    """A session whose VACUUM pauses as the platform file says."""
    throttle = {
        "vacuum_cost_limit": str(settings.cost_limit),
        "vacuum_cost_delay": f"{settings.cost_delay.total_seconds() * 1000:g}",
    }
    return connect(conninfo, lock_timeout=settings.lock_timeout, settings=throttle)


@dataclass(frozen=True, kw_only=True)
class Need:
    """One table that VACUUM or ANALYZE would do good."""

    table: str
    """``schema.name``, for people."""

    schema: str
    name: str
    arm: Arm
    """``freeze`` wards off wraparound and goes first; ``vacuum`` includes ANALYZE; ``analyze`` is that alone."""

    score: float
    """1 is where autovacuum would begin."""

    because: str
    """The part of the score that is largest, with its numbers."""

    allowed: bool
    """Whether this role may."""

    owner: str
    failsafe: bool
    """So near to wraparound that nothing but freezing counts."""

    facts: Mapping[str, Any]
    """Parts of the score, rows, bytes, and when it was last cared for (ISO 8601, UTC)."""

    held_by: str = ""
    """Who holds a snapshot so old that dead rows may stay whatever we do; empty when nobody."""

    def as_dict(self) -> dict[str, Any]:
        """JSON values only, as XCom and the ledger's plan want them."""
        return asdict(self)


def tables_in_need(connection: Connection, settings: Vacuum, *, only: tuple[str, str] | None = None) -> list[Need]:
    """
    The neediest tables, freeze before all, at most ``settings.most_tables``; what is being vacuumed now is left out.

    :param only: ``(schema, name)``, to ask about one table.
    :raises SettingsError: the server is a standby, where nothing can be vacuumed, or older than PostgreSQL 13.
    """
    if connection.info.server_version < 130000:
        raise SettingsError(
            f"PostgreSQL {connection.info.server_version // 10000} is older than 13",
            hint="upgrade it: its last minor release was years ago.",
        )
    with statement_timeout(connection, timedelta(seconds=CHOOSE_S)):
        standby = connection.execute("select pg_is_in_recovery() as yes").fetchone()
        if standby and standby["yes"]:
            raise SettingsError(
                "this server is a standby; VACUUM and ANALYZE run on the primary",
                hint="let the connection name the primary, or several hosts with `target_session_attrs=read-write`.",
            )
        schema, name = only or (None, None)
        rows = connection.execute(
            query("tables_in_need"),
            {
                "least_score": settings.least_score,
                "freeze_from": FREEZE_FROM,
                "most_tables": settings.most_tables,
                "schema": schema,
                "name": name,
            },
        ).fetchall()
        holder = old_snapshot(connection) if rows else ""
    return [_need(row, holder) for row in rows]


_PARTS = {
    "dead_score": "{dead_rows:,} dead rows",
    "insert_score": "{inserted_rows:,} rows inserted since the last VACUUM",
    "analyze_score": "{changed_rows:,} rows changed since the last ANALYZE",
    "xid_score": "{transactions_unfrozen:,} transactions not frozen",
    "mxid_score": "{multixacts_unfrozen:,} multixacts not frozen",
}
_LAST = ("last_vacuum", "last_autovacuum", "last_analyze", "last_autoanalyze")


def _need(row: Mapping[str, Any], holder: str) -> Need:
    parts = [part for part in _PARTS if row["arm"] != "freeze" or part.endswith("xid_score")]
    largest = max(parts, key=lambda part: float(row[part]))
    apart = {"schema", "name", "arm", "score", "allowed", "owner", "failsafe", *_PARTS, *_LAST}
    facts = {
        **{part: round(float(row[part]), 3) for part in _PARTS},
        **{key: value for key, value in row.items() if key not in apart},
        **{last: row[last].astimezone(UTC).isoformat() if row[last] else None for last in _LAST},
    }
    return Need(
        table=f"{row['schema']}.{row['name']}",
        schema=row["schema"],
        name=row["name"],
        arm=row["arm"],
        score=round(float(row["score"]), 3),
        because=f"{_PARTS[largest].format(**row)} ({row[largest]:.1f} × autovacuum's threshold)",
        allowed=row["allowed"],
        owner=row["owner"],
        failsafe=row["failsafe"],
        facts=facts,
        held_by=holder,
    )


def old_snapshot(
    connection: Connection,
    older_than: timedelta = OLD_SNAPSHOT,
    transactions: int = OLD_SNAPSHOT_TRANSACTIONS,
) -> str:
    """Who keeps dead rows from being removed, if that goes on for long: ``session app (pid 4711), …, for 12 min``."""
    row = connection.execute(query("oldest_xmin")).fetchone()
    if row is None:
        return ""
    held = datetime.now(UTC) - row["since"] if row["since"] else None
    if held < older_than if held is not None else row["transactions"] < transactions:
        return ""
    pid = f" (pid {row['pid']})" if row["pid"] else ""
    since = f", for {held.total_seconds() / 60:.0f} min" if held is not None else ""
    return f"{row['kind']} {row['name'] or 'without a name'}{pid}, {row['transactions']:,} transactions behind{since}"


# -- one table -----------------------------------------------------------------------------------------

State = Literal["done", "not needed", "locked", "refused", "gone", "cancelled", "stopped", "unconfirmed"]


def care(
    conninfo: str,
    schema: str,
    name: str,
    settings: Vacuum,
    *,
    may_go: Callable[[], str] = lambda: "",
    ends: datetime | None = None,
) -> dict[str, Any]:
    """
    VACUUM or ANALYZE one table, if it (still) needs it.

    :param may_go: asked right before the work; ``""`` lets it begin, anything else is the reason why it must not.
    :param ends: when the window closes: nothing is begun then, and what runs is cancelled. Wraparound does not wait
        for windows, so freezing goes on.
    :returns: ``state`` with its ``reason``; ``arm``, ``statement``, ``seconds``; ``before`` and ``after`` with
        ``dead_rows, live_rows, transactions_unfrozen, multixacts_unfrozen, bytes``; ``wal_bytes`` of the whole server
        meanwhile; ``in_vain`` when most dead rows stayed, and ``held_by`` whom; for ``refused`` the missing ``grant``.
    :raises psycopg.OperationalError: the server cannot be reached, or went away.
    """
    with gentle(conninfo, settings) as connection:
        needs = tables_in_need(connection, settings, only=(schema, name))
        if not needs:
            return {"state": "not needed", "reason": "it was cared for meanwhile, or autovacuum is at it now"}
        need = needs[0]
        found: dict[str, Any] = {"arm": need.arm, "because": need.because, "held_by": need.held_by}
        if not need.allowed:
            return {**found, **_refused(connection, need)}
        left = (ends - datetime.now(UTC)) if ends and need.arm != "freeze" else settings.statement_timeout
        stop = may_go() or ("the maintenance window is over" if left <= timedelta(0) else "")
        if stop:
            return {**found, "state": "stopped", "reason": stop}
        before = _state(connection, schema, name)
        if before is None:
            return {**found, "state": "gone", "reason": "the table was dropped meanwhile"}
        return {**found, **_do(connection, need, before, settings, min(left, settings.statement_timeout))}


def _do(
    connection: Connection, need: Need, before: Mapping[str, Any], settings: Vacuum, most: timedelta
) -> dict[str, Any]:
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
        return {**done, "state": "gone", "reason": "the table was dropped meanwhile"}
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
            return {**done, "state": "gone", "reason": "the table was dropped meanwhile"}
        if "permission denied" in said or "only table or database owner" in said:
            return {**done, **_refused(connection, need)}
    after = _state_after(connection, need, before)
    if after is None:
        return {**done, "state": "gone", "reason": "the table was dropped meanwhile"}
    if after[_counter(need)] <= before[_counter(need)]:
        # A warning in another language, or statistics switched off: nobody knows, and that is not "done".
        reason = "; ".join(said for _, said in warnings) or "the server has not counted it"
        return {**done, "state": "unconfirmed", "reason": reason}
    wal = connection.execute(
        "select pg_wal_lsn_diff(%s::pg_lsn, %s::pg_lsn)::bigint as bytes", [after["lsn"], before["lsn"]]
    ).fetchone()
    in_vain = _in_vain(need, before, after)
    if in_vain and not need.held_by:
        done["held_by"] = old_snapshot(connection, timedelta(0), 0)
    return {
        **done,
        "state": "done",
        "reason": "; ".join(said for _, said in warnings),
        "after": _shown(after),
        "wal_bytes": wal["bytes"] if wal else None,
        "in_vain": in_vain,
    }


def _in_vain(need: Need, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether half of what was dead, and no trifle, still is."""
    return bool(need.arm != "analyze" and before["dead_rows"] >= 1000 and after["dead_rows"] > before["dead_rows"] / 2)


def compose(need: Need, version: int) -> sql.Composed:
    """The statement for one table on a server of ``version`` (as 170010)."""
    table = sql.Identifier(need.schema, need.name)
    if need.arm == "analyze":
        return sql.SQL("analyze (skip_locked) {}").format(table)
    # Truncating takes an AccessExclusive lock, which standbys replay: their readers would wait or be cancelled.
    options = ["skip_locked", "truncate false"]
    if need.arm == "freeze":
        options.append("freeze")
    if need.failsafe:
        options.append("index_cleanup off")
    else:
        options.insert(0, "analyze")
    if version >= 160000:
        # One pass over pg_class per table would make many tables quadratic.
        options.append("skip_database_stats")
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
    deadline = time.monotonic() + 2
    while (after := _state(connection, need.schema, need.name)) and after[_counter(need)] <= before[_counter(need)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return after


def _counter(need: Need) -> str:
    return "analyzes" if need.arm == "analyze" else "vacuums"


def _shown(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key not in ("lsn", "vacuums", "analyzes")}
