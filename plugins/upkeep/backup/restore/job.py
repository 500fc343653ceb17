"""The steps of a restore, each on the record, each of which can be killed and run again."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from upkeep.backup import content, manifest, programs, restoring, verdicts
from upkeep.backup.encryption import Key
from upkeep.backup.faults import some
from upkeep.backup.manifest import Database, Manifest
from upkeep.backup.restore import contents, load, loss, record, replay, swap, target
from upkeep.backup.restore.choose import RefusedError
from upkeep.backup.restore.record import Restore
from upkeep.backup.store import Store
from upkeep.errors import UpkeepError
from upkeep.ledger import Ledger, Run
from upkeep.platforms.backup import Restoring
from upkeep.platforms.database import Query
from upkeep.postgres.session import Connection, connect

log = logging.getLogger(__name__)

ROOM = 2.2
"""Times the size of the database that was dumped: the new one, as much WAL, and some."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a restore works with."""

    run: Run
    ledger: Ledger
    store: Store
    prefix: str
    owner: str
    """libpq connection string of the owner role: makes, loads, renames."""

    maintenance: str
    """… of the maintenance role: reads the living database, and sees what its sessions do."""

    rules: Restoring
    key: Key | None = None
    queries: Sequence[Query] = ()
    directories: Sequence[Path] = ()
    """With PostgreSQL's programs, beside the usual ones."""

    free: Callable[[], float]
    """Bytes left on the database's disk. :raises UpkeepError: nobody knows."""


@contextmanager
def _alone(job: Job) -> Iterator[None]:
    with job.ledger.exclusive(f"restore/{job.run.platform}") as mine:
        if not mine:
            raise RefusedError(
                f"another restore of {job.run.platform} is at work", hint="one at a time: wait for it, then clear this."
            )
        yield


def _manifest(job: Job, restore: Restore) -> tuple[Manifest, Database]:
    found = manifest.read(
        job.store,
        job.prefix,
        restore.backup,
        platform=restore.platform,
        sha256=verdicts.manifest_sha256(job.ledger, restore.platform, restore.backup),
    )
    assert found.database is not None
    return found, found.database


def _programs(job: Job, server_version: int, database: Database) -> programs.Programs:
    """Of the server's major version, and none older than what wrote the dump."""
    written = int(database.client_version.partition(".")[0]) * 10_000
    return programs.client(max(server_version, written), job.directories)


def _here(job: Job, restore: Restore) -> str:
    """The new database, as the owner role."""
    return target.beside(job.owner, restore.made)


# -- before anything is made -----------------------------------------------------------------------------


def room(job: Job, restore: Restore, *, swaps: bool) -> dict[str, Any]:
    """
    Whether it can be restored here: rights, disk, everything in the dump; what nobody knows is a no.

    :raises RefusedError: something speaks against it; nothing was made.
    """
    found, database = _manifest(job, restore)
    with target.server(job.owner) as connection:
        lacking = target.missing_rights(connection, restore.live, swaps=swaps)
        if lacking:
            raise RefusedError(
                some([said for said, _ in lacking]),
                hint="as a superuser: " + " ".join(cure for _, cure in lacking),
            )
        _fits(connection.info.server_version, database)
        selection = _selection(job, connection, restore, found)
    needed = int(database.source_bytes * ROOM)
    try:
        free = job.free()
    except UpkeepError as unknown:
        raise RefusedError(
            f"{needed / 1e9:.2f} GB of disk are needed, and how much is free is not known: {unknown.message}",
            hint=unknown.hint,
        ) from None
    if free < needed:
        raise RefusedError(
            f"{needed / 1e9:.2f} GB of the database's disk are needed and {free / 1e9:.2f} are free",
            hint="make room (an old database of an earlier restore, WAL that a slot holds), then clear this task.",
        )
    return {"needed_bytes": needed, "free_bytes": int(free), "left_out": selection.sentence}


def _fits(version: int, database: Database) -> None:
    if version // 10_000 < database.server_version // 10_000:
        raise RefusedError(
            f"the server is PostgreSQL {version // 10_000}, and the backup is of {database.server_version // 10_000}",
            hint="restore into a server at least as new.",
        )


def _selection(job: Job, connection: Connection, restore: Restore, found: Manifest) -> contents.Selection:
    assert found.database is not None
    used = _programs(job, connection.info.server_version, found.database)
    lines = contents.listed(job.store, found, job.key, used)
    return contents.select(connection, lines, _owner(connection, restore, lines), _present(job))


def _owner(connection: Connection, restore: Restore, lines: Sequence[str]) -> str:
    """Of the living database; where that is gone, of the one that was dumped."""
    live = target.look(connection, restore.live)
    owner = live.owner if live else contents.owner_of_database(lines)
    if not owner:
        raise RefusedError(
            f"there is no database {restore.live}, and the dump does not say who owned it",
            hint=f"make it, empty, as it was owned: create database {restore.live} owner …; then clear this task.",
        )
    return owner


def _present(job: Job) -> list[str]:
    """Extensions that the template brings."""
    if job.rules.template == "template0":
        return []
    try:
        with connect(target.beside(job.owner, job.rules.template)) as connection:
            return [one.name for one in content.extensions(connection)]
    except (psycopg.Error, UpkeepError) as closed:
        raise RefusedError(
            f"template {job.rules.template} cannot be looked into: {' '.join(str(closed).split())[:200]}",
            hint="`backup.database.restore.template` names a database of this server that takes connections.",
        ) from None


# -- the new database ------------------------------------------------------------------------------------


def bring(job: Job, restore: Restore) -> Restore:
    """
    Read the backup whole, make the new database, load it; an earlier try's is made anew.

    :raises RefusedError: the backup is not what was written, or a database of that name is not ours.
    :raises ProgramError: pg_restore failed.
    """
    if restore.state in ("swapped", "back"):
        raise RefusedError(f"restore {restore.id} was swapped in already", hint="trigger a new restore.")
    found, database = _manifest(job, restore)
    with _alone(job), target.server(job.owner) as connection:
        used = _programs(job, connection.info.server_version, database)
        with _timed() as checked:
            size = load.check(job.store, found, job.key, used)
        selection = _selection(job, connection, restore, found)
        live = target.look(connection, restore.live)
        with job.ledger.action(
            job.run, "backup", "restore", restore.made, before={"backup": restore.backup, "bytes": size}
        ) as action:
            restore = _claim(job, connection, restore)
            made = target.make(
                connection, restore, live, _owner(connection, restore, selection.lines), job.rules.template
            )
            restore = record.become(
                job.ledger, restore, "loading", oids=(live.oid if live else None, made.oid), replay=None
            )
            with _timed() as loaded:
                load.load(job.store, found, job.key, used, _here(job, restore), selection.lines)
            with _timed() as analyzed:
                load.analyze(_here(job, restore))
            seconds = {"check": checked(), "load": loaded(), "analyze": analyzed()}
            action.after = {"seconds": seconds, "oid": made.oid}
        left, extensions = selection.sentence, sorted(selection.extensions)
        return record.become(job.ledger, restore, "loaded", seconds=seconds, left_out=left, extensions=extensions)


def _claim(job: Job, connection: Connection, restore: Restore) -> Restore:
    """From here on a database of the new one's name is ours; before, it must not be there."""
    found = target.look(connection, restore.made)
    if found is not None and (restore.state == "removed" or not target.is_ours(connection, found, restore)):
        raise RefusedError(
            f"there is a database {restore.made}, and this restore did not make it",
            hint="look what it is; rename or drop it by hand, then clear this task.",
        )
    return record.become(job.ledger, restore, "loading", oids=(None, None))


def prove(job: Job, restore: Restore) -> Restore:
    """
    Compare the new database with the manifest, and ask it the platform's own questions.

    :raises RefusedError: it is not what was backed up.
    """
    _is(restore, "loaded", "proved", "replayed")
    if restore.state == "replayed":
        # By now rows were erased again; it was proved before they were.
        return restore
    _, database = _manifest(job, restore)
    with (
        _alone(job),
        job.ledger.action(
            job.run, "backup", "prove restore", restore.made, before={"backup": restore.backup}
        ) as action,
        _timed() as taken,
    ):
        faults = list(
            contents.without(restoring.compare(_here(job, restore), database), restore.facts.get("extensions") or ())
        )
        faults += restoring.ask(_here(job, restore), job.queries)
        rows = sum(table.rows for table in database.tables)
        action.after = {"tables": len(database.tables), "rows": rows, "faults": [fault.said for fault in faults]}
        for fault in faults:
            log.error("%s", fault.said)
        if faults:
            raise RefusedError(
                f"{restore.made} is not what backup {restore.backup} held: {some([f.said for f in faults], 3)}",
                hint="choose another backup; nothing was replaced.",
            )
        seconds = {**restore.facts.get("seconds", {}), "prove": taken()}
    return record.become(job.ledger, restore, "proved", seconds=seconds, rows=rows, tables=len(database.tables))


def erase(job: Job, restore: Restore) -> Restore:
    """
    Delete again what was deleted for good since the backup.

    :raises RefusedError: it cannot be told what was.
    """
    _is(restore, "proved", "replayed")
    found, _ = _manifest(job, restore)
    with _alone(job):
        known = replay.recorded(job.ledger, restore.platform, found.started)
        erased = replay.together(known, _untold(job, restore, found))
        before = {"plans": len(erased), "rows": sum(one.rows for one in erased)}
        with job.ledger.action(job.run, "backup", "erase again", restore.made, before=before) as action:

            def remember(done: list[replay.Again]) -> None:
                record.become(job.ledger, restore, restore.state, replay=[one.as_dict() for one in done])

            done = replay.replay(
                _here(job, restore), erased, earlier=restore.facts.get("replay") or (), remember=remember
            )
            action.after = {"rows": sum(one.gone for one in done)}
        return record.become(
            job.ledger, restore, "replayed", replay=[one.as_dict() for one in done], erased=replay.sentence(done)
        )


def _untold(job: Job, restore: Restore, found: Manifest) -> list[Any]:
    """What only the living database knows; where that cannot be asked, the ledger alone counts, and it is said."""
    try:
        return list(replay.not_yet_told(job.maintenance, found.started))
    except (psycopg.Error, UpkeepError) as away:
        log.warning("%s cannot be asked for deletions that the ledger does not know yet: %s", restore.live, away)
        return []


def weigh(job: Job, restore: Restore, database: str = "") -> loss.Loss:
    """What ``database`` (the living one) has that the backup has not."""
    _, snapshot = _manifest(job, restore)
    return loss.weigh(target.beside(job.maintenance, database or restore.live), snapshot)


# -- names -----------------------------------------------------------------------------------------------


def put_in_place(job: Job, restore: Restore) -> tuple[Restore, swap.Swapped]:
    """
    The new database gets the living one's name; that one is kept.

    :raises RefusedError: it is not what it was, or somebody would not leave; everything is as it was.
    """
    _is(restore, "replayed", "swapped")
    assert restore.made_oid is not None
    names = swap.Names(restore.live, restore.made, restore.before, restore.live_oid, restore.made_oid)
    with _alone(job):
        comments = {restore.live: _comment(job, restore.live)}
        if restore.live_oid is not None:
            comments[restore.before] = (
                f"replaced by restore {restore.id} of backup {restore.backup}; kept until a person drops it"
            )
        done = _swap(job, "swap", names, comments)
        return record.become(job.ledger, restore, "swapped", swap=done.as_dict()), done


def put_back(job: Job, restore: Restore) -> tuple[Restore, swap.Swapped]:
    """
    The database that was replaced gets its name back; the restored one is kept.

    :raises RefusedError: it is gone, or somebody would not leave.
    """
    _is(restore, "swapped", "back")
    if restore.live_oid is None:
        raise RefusedError(
            f"restore {restore.id} replaced nothing: there was no {restore.live}", hint="there is no way back."
        )
    assert restore.made_oid is not None
    names = swap.Names(restore.live, restore.before, restore.made, restore.made_oid, restore.live_oid)
    with _alone(job):
        comments = {restore.live: _comment(job, restore.live), restore.made: target.marker(restore)}
        done = _swap(job, "swap back", names, comments)
        return record.become(job.ledger, restore, "back", swap_back=done.as_dict()), done


def _swap(job: Job, verb: str, names: swap.Names, comments: dict[str, str]) -> swap.Swapped:
    before = {"live_oid": names.live_oid, "come": names.come, "come_oid": names.come_oid, "leave": names.leave}
    with job.ledger.action(job.run, "backup", verb, names.live, before=before) as action:
        done = swap.exchange(
            job.owner, job.maintenance, names, wait=job.rules.wait, within=job.rules.within, comments=comments
        )
        action.after = done.as_dict()
    return done


def _comment(job: Job, live: str) -> str:
    with target.server(job.owner) as connection:
        found = target.look(connection, live)
    return found.comment if found else ""


def remove(job: Job, restore: Restore) -> Restore:
    """Drop the new database; one that was swapped in is never touched. :raises RefusedError: it is not ours."""
    if restore.state == "swapped":
        raise RefusedError(f"{restore.made} is in use as {restore.live}", hint="swap back first, if you mean it.")
    with (
        _alone(job),
        target.server(job.owner) as connection,
        job.ledger.action(job.run, "backup", "drop", restore.made) as action,
    ):
        action.after = {"dropped": target.drop(connection, restore)}
        return record.become(job.ledger, restore, "removed")


def drop_old(job: Job, restore: Restore) -> Restore:
    """Drop what is no longer in use, of the two, for good. :raises RefusedError: it is not what it was."""
    if restore.state == "back":
        return remove(job, restore)
    _is(restore, "swapped")
    with (
        _alone(job),
        target.server(job.owner) as connection,
        job.ledger.action(job.run, "backup", "drop", restore.before) as action,
    ):
        action.after = {"dropped": target.drop_old(connection, restore)}
        return record.become(job.ledger, restore, "removed")


def _is(restore: Restore, *states: str) -> None:
    if restore.state not in states:
        raise RefusedError(
            f"restore {restore.id} is {restore.state}, and this needs {' or '.join(states[:1])}",
            hint="clear the earlier tasks of its run, or trigger a new restore.",
        )


@contextlib.contextmanager
def _timed() -> Iterator[Callable[[], float]]:
    """Seconds since the block began; when it has ended, those that it took."""
    began, took = time.monotonic(), list[float]()
    yield lambda: round(took[0] if took else time.monotonic() - began, 2)
    took.append(time.monotonic() - began)
