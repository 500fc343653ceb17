"""The steps of a restore, each on the record, each of which can be killed and run again."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from upkeep.backup import content, manifest, programs, restoring, verdicts
from upkeep.backup.encryption import Key
from upkeep.backup.faults import some
from upkeep.backup.manifest import Database, Manifest
from upkeep.backup.restore import contents, load, loss, record, replay, target
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


LOAD, SWAP = "load", "swap"
"""What only one restore of a platform may do at a time."""


@contextmanager
def alone(job: Job, *names: str) -> Iterator[None]:
    """:param names: ``LOAD``, ``SWAP``, the id of a restore: what nobody else may be at work on."""
    with ExitStack() as held:
        for name in names:
            if not held.enter_context(job.ledger.exclusive(f"restore/{job.run.platform}/{name}")):
                raise RefusedError(
                    f"another restore of {job.run.platform} is at work on it ({name})",
                    hint="one at a time: wait for it, then clear this task.",
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


def here(job: Job, restore: Restore) -> str:
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
    with alone(job, LOAD, restore.id), target.server(job.owner) as connection:
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
                job.ledger, restore, "loading", oids=(live.oid if live else None, made.oid), replay=None, erased_at=None
            )
            with _timed() as loaded:
                load.load(job.store, found, job.key, used, here(job, restore), selection.lines)
            with _timed() as analyzed:
                load.analyze(here(job, restore))
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
    needs(restore, "loaded", "proved", "replayed")
    if restore.state == "replayed":
        # By now rows were erased again; it was proved before they were.
        return restore
    _, database = _manifest(job, restore)
    with (
        alone(job, restore.id),
        job.ledger.action(
            job.run, "backup", "prove restore", restore.made, before={"backup": restore.backup}
        ) as action,
        _timed() as taken,
    ):
        faults = list(
            contents.without(restoring.compare(here(job, restore), database), restore.facts.get("extensions") or ())
        )
        faults += restoring.ask(here(job, restore), job.queries)
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
    needs(restore, "proved", "replayed")
    with alone(job, restore.id):
        return erase_again(job, restore)


def erase_again(job: Job, restore: Restore) -> Restore:
    """As ``erase``, for who is alone already."""
    found, _ = _manifest(job, restore)
    began = datetime.now(UTC)
    known = replay.recorded(job.ledger, restore.platform, found.started)
    erased = replay.together(known, untold(job, restore.live, found.started))
    before = {"plans": len(erased), "rows": sum(one.rows for one in erased)}
    with job.ledger.action(job.run, "backup", "erase again", restore.made, before=before) as action:

        def remember(done: list[replay.Again]) -> None:
            # Not counted yet: a try that is killed now has done all of it or nothing.
            record.become(job.ledger, restore, "proved", replay=[one.as_dict() for one in done])

        done = replay.replay(
            here(job, restore),
            erased,
            earlier=restore.facts.get("replay") or (),
            counted=restore.state == "replayed",
            remember=remember,
        )
        action.after = {"rows": sum(one.gone for one in done)}
    told = [one.as_dict() for one in done]
    return record.become(
        job.ledger, restore, "replayed", replay=told, erased=replay.sentence(done), erased_at=began.isoformat()
    )


def untold(job: Job, database: str, since: datetime) -> list[Any]:
    """What only the living database knows; where that cannot be asked, the ledger alone counts, and it is said."""
    try:
        return list(replay.not_yet_told(target.beside(job.maintenance, database), since))
    except (psycopg.Error, UpkeepError) as away:
        log.warning("%s cannot be asked for deletions that the ledger does not know yet: %s", database, away)
        return []


def weigh(job: Job, restore: Restore, database: str = "") -> loss.Loss:
    """What ``database`` (the living one) has that the backup has not."""
    _, snapshot = _manifest(job, restore)
    return loss.weigh(target.beside(job.maintenance, database or restore.live), snapshot)


def needs(restore: Restore, *states: str) -> None:
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
