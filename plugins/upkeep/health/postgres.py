"""PostgreSQL by real use: connect, ask, write; then everything that tells how it is."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from upkeep.errors import UpkeepError
from upkeep.findings import Finding, Outcome, Severity, judged, ok, unknown
from upkeep.health import postgres_server, postgres_sessions
from upkeep.health.side_by_side import PAUSE_S, one_line
from upkeep.platforms.services import Postgres
from upkeep.settings import ROOT

MOST_SECONDS = 7.0
"""Of everything together, so that the health area as a whole ends within ten."""

Connection = psycopg.Connection[dict[str, Any]]

CHECKS: dict[str, Callable[[Postgres, postgres_server.Ask], Outcome]] = {
    "postgres_connections": postgres_sessions.connections,
    "postgres_long_queries": postgres_sessions.long_queries,
    "postgres_idle_in_transaction": postgres_sessions.idle_in_transaction,
    "postgres_blocked": postgres_sessions.blocked,
    "postgres_replication": postgres_server.replication,
    "postgres_slots": postgres_server.slots,
    "postgres_archiver": postgres_server.archiver,
    "postgres_wraparound": postgres_server.wraparound,
    "postgres_tables": postgres_server.tables,
}
"""What is asked once a connection stands; ``postgres_primary``, ``_version`` and ``_write`` come before."""

OF_A_PRIMARY = ("postgres_write", "postgres_replication", "postgres_slots", "postgres_archiver")
"""Checks that say nothing on a standby."""

_REFUSED = re.compile(
    r"(?i)authentication failed|no password supplied|no pg_hba\.conf entry|role \S+ does not exist"
    r"|database \S+ does not exist|permission denied for database|is not permitted to log in|certificate verify"
)
"""What another try would not change; servers that speak other languages get their second try all the same."""


def look(
    settings: Postgres, conninfo: str, *, timeout_s: float = 3.0, conn_id: str = "the Postgres connection"
) -> list[Outcome]:
    """
    Every ``postgres_*`` check of one database, within ``MOST_SECONDS``.

    :param conninfo: libpq connection string of the maintenance role (``pg_monitor``).
    :param timeout_s: for connecting (libpq allows no less than 2 s), and for each statement.
    :param conn_id: what hints call the connection.
    """
    began = time.monotonic()
    at = datetime.now(UTC)
    connection, refused = _connect(conninfo, timeout_s, began)
    seconds = round(time.monotonic() - began, 3)
    if connection is None:
        finding = _unusable(settings, refused, conn_id)
        outcome = judged("postgres_connect", settings.severity, [finding], **finding.facts)
        return [replace(outcome, at=at, seconds=seconds), *_not_looked(settings, "postgres_connect", finding.summary)]
    with contextlib.closing(connection), _cut_off(connection, MOST_SECONDS - (time.monotonic() - began)):
        outcomes = [*_look(settings, connection, timeout_s)]
        outcomes[0] = replace(outcomes[0], at=at, seconds=round(seconds + outcomes[0].seconds, 3))
        lost = connection.closed
    if not lost:
        return outcomes
    # It broke while it was looked at: that is one finding, not a dozen of unknowns.
    finding = Finding(
        check="postgres_connect",
        severity=settings.severity,
        summary="the server stopped answering, or closed the connection, while it was looked at",
        hint="read the server's log of this minute: a crash, a failover, an administrator's command, a network fault.",
    )
    seen = {outcome.check: outcome for outcome in outcomes if outcome.state != "unknown"}
    rest = [seen.get(o.check, o) for o in _not_looked(settings, "postgres_connect", finding.summary)]
    return [replace(judged("postgres_connect", settings.severity, [finding]), at=at, seconds=seconds), *rest]


# -- connecting ----------------------------------------------------------------------------------------


def _connect(conninfo: str, timeout_s: float, began: float) -> tuple[Connection | None, str]:
    """A connection that answers, or why there is none; tried twice, because one blip pages nobody."""
    said = ""
    for last in (False, True):
        left_s = MOST_SECONDS - (time.monotonic() - began)
        try:
            return _open(conninfo, min(timeout_s, left_s), timeout_s), ""
        except psycopg.Error as trouble:
            said = _said(trouble)
        if last or _REFUSED.search(said):
            break
        time.sleep(PAUSE_S)
    return None, said


def _open(conninfo: str, connect_s: float, statement_s: float) -> Connection:
    target = make_conninfo(conninfo, connect_timeout=max(2, math.floor(connect_s)), fallback_application_name="upkeep")
    connection: Connection = psycopg.connect(target, autocommit=True, row_factory=dict_row)
    try:
        with _cut_off(connection, connect_s):
            connection.execute(
                "select set_config('statement_timeout', %(ms)s, false), set_config('lock_timeout', %(ms)s, false)",
                {"ms": str(int(statement_s * 1000))},
            )
    except psycopg.Error:
        connection.close()
        raise
    return connection


@contextmanager
def _cut_off(connection: Connection, seconds: float) -> Iterator[None]:
    """
    Shut the connection's socket after ``seconds``: a server that is frozen heeds no ``statement_timeout``.

    Whoever waits for it then gets an OperationalError.
    """
    copy = socket.socket(fileno=os.dup(connection.fileno()))

    def cut() -> None:
        with contextlib.suppress(OSError):
            copy.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.1, seconds), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        copy.close()


def _said(trouble: psycopg.Error) -> str:
    """libpq's message without the addresses it tried in between."""
    text = one_line(trouble, most=2000).partition(": ")[2] or type(trouble).__name__
    text = text.partition(" Multiple connection attempts failed")[0]
    text = re.sub(r"^connection failed: ", "", text)
    text = re.sub(r"(?i)^connection to server (at|on socket) .*? failed: ", "", text)
    return text[:300]


def _unusable(settings: Postgres, said: str, conn_id: str) -> Finding:
    if re.search(r"(?i)too many clients|remaining connection slots|too many connections for", said):
        hint = "all its connections are taken: end idle ones, find what leaks them, or put a pooler in front."
    elif _REFUSED.search(said):
        hint = f"correct user, password, database or rights of connection `{conn_id}`; trying again does not help."
    elif "timeout" in said or "timed out" in said:
        hint = "the host accepts but does not answer, or packets are dropped: look at its load, disk and firewall."
    elif re.search(r"(?i)starting up|shutting down|recovery mode|not yet accepting", said):
        hint = "it is starting, stopping or recovering: read its log to see how far it is."
    else:
        hint = "is the server running? Look at its process and log, then at the network between it and the workers."
    return Finding(
        check="postgres_connect",
        severity=settings.severity,
        summary=f"no usable connection: {said}",
        hint=hint,
        facts={"error": said},
    )


# -- looking -------------------------------------------------------------------------------------------


def _look(settings: Postgres, connection: Connection, timeout_s: float) -> Iterator[Outcome]:
    def ask(name: str, **parameters: Any) -> list[dict[str, Any]]:
        return connection.execute(sql(name), parameters or None).fetchall()

    def timed(check: str, judge: Callable[[], Outcome]) -> Outcome:
        at, began = datetime.now(UTC), time.monotonic()
        try:
            outcome = judge()
        except psycopg.Error as trouble:
            outcome = unknown(check, _severity(settings, check), _why(trouble))
        # At least 1 ms, because zero means that nobody measured.
        return replace(outcome, at=at, seconds=max(0.001, round(time.monotonic() - began, 3)))

    identity: dict[str, Any] = {}

    def connected() -> Outcome:
        identity.update(ask("identity")[0])
        return ok("postgres_connect", settings.severity, **_json(identity))

    yield timed("postgres_connect", connected)
    if not identity:
        yield from _not_looked(settings, "postgres_connect", "the server did not say what it is")
        return
    yield timed("postgres_version", lambda: postgres_server.version(settings, identity))
    yield timed("postgres_primary", lambda: postgres_server.primary(settings, identity))
    standby = bool(identity["in_recovery"])
    checks = {"postgres_write": lambda s, _: _write(s, connection, timeout_s), **CHECKS}
    for check, judge in checks.items():
        if standby and check in OF_A_PRIMARY:
            yield unknown(check, _severity(settings, check), "the server is a standby", explained_by="postgres_primary")
        else:
            yield timed(check, partial(judge, settings, ask))


def _not_looked(settings: Postgres, because: str, reason: str) -> list[Outcome]:
    checks = ("postgres_version", "postgres_primary", "postgres_write", *CHECKS)
    return [unknown(check, _severity(settings, check), reason, explained_by=because) for check in checks]


def _severity(settings: Postgres, check: str) -> Severity:
    """What a check counts with when it could not look."""
    match check:
        case "postgres_connect" | "postgres_primary" | "postgres_write":
            return settings.severity
        case "postgres_connections":
            return settings.connections.critical_severity
        case "postgres_replication" | "postgres_slots":
            return settings.replication_severity
        case "postgres_wraparound":
            return settings.xid_age.warn_severity
        case "postgres_archiver":
            return postgres_server.ARCHIVER_SEVERITY
        case "postgres_tables":
            return postgres_server.TABLES_SEVERITY
        case "postgres_version":
            return postgres_server.VERSION_SEVERITY
        case _:
            return settings.activity_severity


def _why(trouble: psycopg.Error) -> str:
    if isinstance(trouble, psycopg.errors.InsufficientPrivilege):
        return f"{_said(trouble)}; include/sql/postgres/roles.sql grants what is needed"
    return _said(trouble)


# -- writing -------------------------------------------------------------------------------------------


_NOT_SET_UP = (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.InsufficientPrivilege)


def _write(settings: Postgres, connection: Connection, timeout_s: float) -> Outcome:
    """Commit a row, find it again, remove it."""
    mine = {"id": -1 - secrets.randbelow(2**31 - 1)}
    notices: list[str] = []

    def noticed(diagnostic: psycopg.errors.Diagnostic) -> None:
        notices.append(diagnostic.message_primary or "")

    connection.add_notice_handler(noticed)
    # statement_timeout ends before the commit does, and a commit waits for its synchronous standby for ever.
    timer = threading.Timer(timeout_s, _cancel, [connection])
    timer.daemon = True
    timer.start()
    began = time.monotonic()
    try:
        connection.execute(sql("canary_write"), {**mine, "run": "health"})
        commit_s = round(time.monotonic() - began, 4)
    except _NOT_SET_UP as missing:
        reason = f"{_said(missing)}; run include/sql/postgres/roles.sql in this database"
        return unknown("postgres_write", settings.severity, reason)
    except psycopg.Error as trouble:
        if connection.closed:
            raise
        return judged("postgres_write", settings.severity, [_unwritable(settings, _said(trouble))])
    finally:
        timer.cancel()
        connection.remove_notice_handler(noticed)
    # The row is there even when nobody confirmed it; removing it must not wait for them again.
    connection.execute("select set_config('synchronous_commit', 'local', false)")
    found = [row["id"] for row in connection.execute(sql("canary_clean"), mine).fetchall()]
    if notices:
        said = f"no synchronous standby confirmed a commit within {timeout_s:g} s: {'; '.join(notices)[:200]}"
        return judged("postgres_write", settings.severity, [_unwritable(settings, said)], commit_s=commit_s)
    if mine["id"] not in found:
        said = "a row that was committed is not there a moment later"
        return judged("postgres_write", settings.severity, [_unwritable(settings, said)], commit_s=commit_s)
    return ok("postgres_write", settings.severity, commit_s=commit_s)


def _unwritable(settings: Postgres, said: str) -> Finding:
    return Finding(
        check="postgres_write",
        severity=settings.severity,
        summary=f"it takes no writes: {said}",
        hint="look at the free disk space, default_transaction_read_only and synchronous_standby_names.",
        facts={"error": said},
    )


def _cancel(connection: Connection) -> None:
    with contextlib.suppress(psycopg.Error):
        connection.cancel_safe(timeout=1.0)


# -- SQL -----------------------------------------------------------------------------------------------


class UnknownQueryError(UpkeepError):
    """No such file below ``include/sql/health``."""


@cache
def sql(name: str) -> str:
    """The text of ``include/sql/health/<name>.sql``. :raises UnknownQueryError: there is none."""
    file = ROOT / "include" / "sql" / "health" / f"{name}.sql"
    try:
        return file.read_text()
    except FileNotFoundError:
        raise UnknownQueryError(f"no query {name!r}", hint=f"{file} is part of the package; restore it.") from None


def _json(values: dict[str, Any]) -> dict[str, Any]:
    """``values`` as JSON knows them: times become ISO 8601 text."""
    return dict(json.loads(json.dumps(values, default=lambda value: value.isoformat())))
