"""
The brake: whether the server is too strained for maintenance, asked by every job between two items.

What is measured belongs to the server, so two platforms on one server brake together; the flag is the platform's own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import psycopg

from upkeep.errors import CredentialsError
from upkeep.health.postgres_server import size, span
from upkeep.platforms.base import format_duration
from upkeep.platforms.conduct import Brake
from upkeep.postgres.session import Connection, query

log = logging.getLogger(__name__)

Go = Callable[[], str]
"""``""``: go on. Anything else: why the work must stop now; it has then already waited politely."""

DISK_EVERY_S = 30.0
"""The disk is looked at this often at most: jobs ask between small batches, and metrics are no fresher."""


def hold(
    connection: Connection,
    settings: Brake,
    *,
    ends: datetime | None,
    flag: Callable[[], str] = lambda: "",
    disk: Callable[[], float | None] = lambda: None,
) -> Go:
    """
    The brake of one job: a function to be called between items, which waits while the server is strained.

    Its waits double from ``first_wait`` to ``longest_wait``; each is logged with its reason. When ``ends`` has come,
    the job is told to stop, and why. Not strained is ``""`` at any hour: keeping the window is the job's own duty.

    :param connection: of a role with pg_monitor, in no transaction: the wait must not hold a snapshot.
    :param ends: when to give up; without one, after ``longest_wait`` in all.
    :param flag: why a person wants maintenance to wait; empty when nobody does. Asked each time.
    :param disk: share of the database's disk in use; None when nobody knows, which is logged and does not brake.
    :raises CredentialsError: (of the returned function) the role may not look: what cannot be seen is not "well".
    """
    last_look: tuple[float, float | None] = (float("-inf"), None)

    def disk_now() -> float | None:
        nonlocal last_look
        if time.monotonic() - last_look[0] > DISK_EVERY_S:
            share = disk()
            if share is None:
                log.warning("brake: how full the disk is cannot be told; going on without that")
            last_look = (time.monotonic(), share)
        return last_look[1]

    def go() -> str:
        began = datetime.now(UTC)
        until = ends or began + settings.longest_wait
        wait = settings.first_wait
        while reason := "; ".join(_strained(connection, settings, flag(), disk_now)):
            left = until - datetime.now(UTC)
            if left <= timedelta(0):
                waited = datetime.now(UTC) - began
                return f"{reason} (waited {span(waited.total_seconds())})" if waited >= settings.first_wait else reason
            pause = min(wait, left)
            log.warning("brake: waiting %s: %s", span(pause.total_seconds()), reason)
            time.sleep(pause.total_seconds())
            wait = min(wait * 2, settings.longest_wait)
        return ""

    return go


def _strained(connection: Connection, settings: Brake, flag: str, disk: Callable[[], float | None]) -> Iterator[str]:
    """Each reason to wait, with its number and its limit."""
    if flag:
        yield f"a person asked for a hold: {flag}"
    try:
        rows = connection.execute(query("strain")).fetchall()
    except psycopg.errors.InsufficientPrivilege as refused:
        role = connection.info.user
        raise CredentialsError(
            f"role {role!r} may not see how strained the server is: {refused.diag.message_primary}",
            hint=f"as a superuser: grant pg_monitor to {role};",
        ) from None
    for row in rows:
        kind, name, value = row["kind"], row["name"], row["value"]
        if kind == "standby_lag" and value > settings.replica_lag.total_seconds():
            yield f"standby {name} is {value:,.0f} s behind (limit {format_duration(settings.replica_lag)})"
        elif kind == "standby_bytes" and value > settings.replica_bytes:
            yield f"standby {name} is {size(value)} behind (limit {size(settings.replica_bytes)})"
        elif kind == "slot_bytes" and value > settings.slot_retained:
            yield f"slot {name} holds back {size(value)} of WAL (limit {size(settings.slot_retained)})"
        elif kind == "wal_backlog" and value > settings.wal_backlog:
            yield f"{value:,.0f} WAL segments wait to be archived (limit {settings.wal_backlog})"
        elif kind == "sessions" and value > settings.sessions:
            yield f"{value:.0%} of max_connections are at work (limit {settings.sessions:.0%})"
    share = disk()
    if share is not None and share > settings.disk:
        yield f"the disk is {share:.1%} full (limit {settings.disk:.0%})"
