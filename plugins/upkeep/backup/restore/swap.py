"""
Two databases change names, all at once.

Both renames stand in one transaction, so whoever is killed at any point leaves either the old state or the new one,
and never a platform without its database. The first rename takes the lock for which new sessions wait; sessions
that are there are ended meanwhile, idle ones at once and the others when their time is over. No switch such as
ALLOW_CONNECTIONS is thrown: one that a dead worker left off would keep the platform out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import sql

from upkeep.backup import content
from upkeep.backup.faults import some
from upkeep.backup.restore import target
from upkeep.backup.restore.choose import RefusedError
from upkeep.backup.restore.dress import dress
from upkeep.postgres.session import Connection, connect

log = logging.getLogger(__name__)

FORCE_AFTER_S = 2.0
"""Of the five seconds for which a rename waits for sessions, those in a transaction get this many to end."""

RENAME = timedelta(seconds=20)
LOOK_S = 0.05


@dataclass(frozen=True)
class Names:
    """Who is who; a database keeps its oid whatever it is called."""

    live: str
    come: str
    """What takes the place of the living one."""

    leave: str
    """What the living one is called afterwards."""

    live_oid: int | None
    """None: there is no living one."""

    come_oid: int


@dataclass
class Swapped:
    """What became of it."""

    already: bool = False
    away_s: float = 0.0
    """So long new sessions had to wait."""

    ended: int = 0
    """Sessions that were ended in the middle of a transaction."""

    idle: int = 0
    """Sessions that were ended and did nothing."""

    seconds: float = 0.0
    attempts: int = 0
    slots: list[str] = field(default_factory=list)
    """Logical replication slots that stay with the old database."""

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def exchange(
    owner: str, maintenance: str, names: Names, *, wait: timedelta, within: timedelta, comments: Mapping[str, str]
) -> Swapped:
    """
    Rename ``live`` to ``leave`` and ``come`` to ``live``.

    :param owner: as the owner role: renames, and ends sessions. :param maintenance: sees what sessions do.
    :param wait: so long work that is under way may take to end, while new work goes on.
    :param within: afterwards it is given up, and everything is as it was.
    :param comments: of the databases afterwards, by the names they then have.
    :raises RefusedError: it is not what it was, or somebody would not leave.
    """
    began, done = time.monotonic(), Swapped()
    with target.server(owner) as hand, target.server(maintenance) as eye:
        if _is_done(hand, names):
            done.already = True
            return done
        live = target.look(hand, names.live)
        if live is not None:
            _dressed(hand, names, live)
            done.slots = [
                row["name"] for row in eye.execute(content.query("logical_slots"), {"name": names.live}).fetchall()
            ]
        else:
            # What everybody may do with a database of which nobody has said otherwise.
            everybody = sql.SQL("grant connect, temporary on database {} to public")
            hand.execute(everybody.format(sql.Identifier(names.come)))
        _nobody_stays(eye, names)
        _wait_for_work(eye, names.live, wait)
        ends = time.monotonic() + within.total_seconds()
        _until(hand, eye, owner, names, comments, ends, done)
    done.seconds = round(time.monotonic() - began, 3)
    return done


def _is_done(connection: Connection, names: Names) -> bool:
    """Whether it is swapped already. :raises RefusedError: somebody else has changed the databases."""
    come, live = target.named(connection, names.come_oid), target.named(connection, names.live_oid)
    if come == names.live:
        return True
    there = target.look(connection, names.live)
    if (there.oid if there else None) != names.live_oid:
        raise RefusedError(
            f"the database {names.live} is not the one it was when this was prepared"
            + (f" (that is called {live} now)" if live else ""),
            hint="somebody replaced it meanwhile; nothing was touched. Restore anew.",
        )
    if come != names.come:
        raise RefusedError(
            f"the database {names.come} is {f'called {come} now' if come else 'gone'}",
            hint="somebody renamed or dropped it; nothing was touched. Restore anew.",
        )
    if live and target.look(connection, names.leave) is not None:
        raise RefusedError(
            f"there is a database {names.leave} already", hint="rename it by hand, then clear this task."
        )
    return False


def _dressed(connection: Connection, names: Names, live: target.Database) -> None:
    if refused := dress(connection, names.come, live):
        raise RefusedError(
            f"{names.come} cannot be given all that {names.live} has: {len(refused)} statements need more rights",
            hint="have an administrator run them, then clear this task; nothing was swapped:\n" + "\n".join(refused),
        )


def _nobody_stays(eye: Connection, names: Names) -> None:
    """:raises RefusedError: somebody is there whom we cannot end: nobody else is sent away for nothing."""
    stays = [
        _who(one)
        for name in (names.live, names.come)
        for one in _sessions(eye, name)
        if one["pid"] is None or one["superuser"]
    ]
    if stays:
        raise RefusedError(
            f"{names.live} is used by {some(stays)}, which only an administrator can end",
            hint="commit or roll back prepared transactions, end sessions of superusers, then clear this task;"
            " everything is as it was.",
        )


def _who(one: Mapping[str, Any]) -> str:
    if one["pid"] is None:
        return f"prepared transaction {one['application']!r} of {one['role']}"
    return " ".join(f"{one['role']} {one['application']} (pid {one['pid']})".split())


def _wait_for_work(eye: Connection, live: str, wait: timedelta) -> None:
    """Let transactions end by themselves; new ones may begin, so it is no promise."""
    ends = time.monotonic() + wait.total_seconds()
    while time.monotonic() < ends and any(not one["idle"] for one in _sessions(eye, live)):
        time.sleep(LOOK_S)


def _until(
    hand: Connection,
    eye: Connection,
    owner: str,
    names: Names,
    comments: Mapping[str, str],
    ends: float,
    done: Swapped,
) -> None:
    """Try until it is done or the time is over."""
    while True:
        done.attempts += 1
        began = time.monotonic()
        with ThreadPoolExecutor(1, thread_name_prefix="rename") as pool:
            renamed = pool.submit(_rename, owner, names, comments)
            stays = _send_away(hand, eye, names, renamed, done)
        try:
            renamed.result()
        except (
            psycopg.errors.ObjectInUse,
            psycopg.errors.LockNotAvailable,
            psycopg.errors.QueryCanceled,
            # “tuple concurrently updated”: somebody else has just altered the database.
            psycopg.errors.InternalError_,
        ) as used:
            if time.monotonic() > ends:
                who = some(stays) or " ".join(str(used).split())
                raise RefusedError(
                    f"{names.live} could not be swapped in time, it is used by {who}",
                    hint="end that by hand (sessions of superusers, prepared transactions), then clear this task;"
                    " everything is as it was.",
                ) from None
            log.info("somebody uses %s still; again", names.live)
            # New sessions waited for each attempt: let them work for a moment.
            time.sleep(1)
            continue
        except psycopg.errors.InsufficientPrivilege as no:
            raise RefusedError(
                f"the databases may not be renamed: {no.diag.message_primary}",
                hint="`python -m upkeep check` names the right that is missing; everything is as it was.",
            ) from None
        done.away_s = round(time.monotonic() - began, 3)
        return


def _rename(owner: str, names: Names, comments: Mapping[str, str]) -> None:
    with (
        connect(
            target.beside(owner), statement_timeout=RENAME, lock_timeout=timedelta(seconds=5),
            settings={"idle_in_transaction_session_timeout": "10000"},
        ) as connection,
        connection.transaction(),
    ):  # fmt: skip
        rename = sql.SQL("alter database {} rename to {}")
        if names.live_oid is not None:
            connection.execute(rename.format(sql.Identifier(names.live), sql.Identifier(names.leave)))
        _between()
        connection.execute(rename.format(sql.Identifier(names.come), sql.Identifier(names.live)))
        for name, comment in comments.items():
            comment_on = sql.SQL("comment on database {} is {}")
            connection.execute(comment_on.format(sql.Identifier(name), sql.Literal(comment or None)))


def _between() -> None:
    """Between the two renames: tests kill here."""


def _send_away(hand: Connection, eye: Connection, names: Names, renamed: Future[None], done: Swapped) -> list[str]:
    """
    End the sessions for which the rename waits: idle ones at once, the others after a while.

    :returns: who would not leave.
    """
    began, seen, stays = time.monotonic(), set[int](), list[str]()
    while not renamed.done():
        force = time.monotonic() - began > FORCE_AFTER_S
        stays = []
        for name in (names.live, names.come):
            for one in _sessions(eye, name):
                stays.append(_who(one))
                if one["pid"] is not None and (one["idle"] or force):
                    _end(hand, one, seen, done)
        time.sleep(LOOK_S)
    return stays


def _end(hand: Connection, one: Mapping[str, Any], seen: set[int], done: Swapped) -> None:
    try:
        hand.execute("select pg_terminate_backend(%s)", [one["pid"]])
    except psycopg.errors.InsufficientPrivilege as no:
        if one["pid"] not in seen:
            log.warning("%s (pid %s) cannot be ended: %s", one["role"], one["pid"], no.diag.message_primary)
        seen.add(one["pid"])
        return
    if one["pid"] not in seen:
        seen.add(one["pid"])
        if one["idle"]:
            done.idle += 1
        else:
            done.ended += 1
            log.warning("%s %s (pid %s) was ended", one["role"], one["application"], one["pid"])


def _sessions(eye: Connection, name: str) -> list[dict[str, Any]]:
    return eye.execute(content.query("database_sessions"), {"name": name}).fetchall()
