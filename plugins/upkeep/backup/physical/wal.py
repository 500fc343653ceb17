"""
The archive of the log: every few minutes pg_receivewal fetches what is new, and it goes up as one stretch.

The server needs no archive_command and no credentials of the bucket, only a slot of its own that keeps the log until it
lies in the archive: it is moved on after the manifest of a stretch is written, and never before. The last segment goes
up half filled, so that no more is ever missing than what came since the last round.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from upkeep.backup import manifest, scratch
from upkeep.backup.manifest import Cluster, Manifest
from upkeep.backup.physical import base, members, source
from upkeep.backup.physical.lsn import HISTORY, Segment, number, text
from upkeep.backup.physical.source import LOG, Job, Mark, Source
from upkeep.backup.programs import Programs, run, without_secrets
from upkeep.postgres.session import Connection

log = logging.getLogger(__name__)

ENGINE, ROLE, FILE = "wal", "log", "log.tar.gz"
PARTIAL = ".partial"
MOST = 512 * 1024 * 1024
"""Of the log, in one stretch: what a round takes of the worker's disk."""

RECENT = 5
"""The newest stretch is among the last so many by name; clocks of workers differ a little."""


@dataclass(frozen=True)
class Round:
    """What one round came to."""

    stretches: tuple[Manifest, ...]
    bytes: int
    """Stored."""

    end: str
    """``0/3000060``: so far the archive reaches."""

    lost: str = ""
    """What the server had given up before it was fetched; only a new base backup heals that."""


def archive(job: Job, choose: Callable[[int], Programs], parent: Path) -> Round:
    """
    Fetch everything that is new, stretch by stretch.

    :param parent: where the segments lie on their way; at most ``MOST`` of them.
    :raises UpkeepError: a program, the store or the disk failed; the next round begins where this one ended.
    :raises psycopg.Error: the server failed.
    """
    made: list[Manifest] = []
    with source.session(job.conninfo) as connection:
        found = source.look(connection)
        programs = choose(found.version)
        kept = Segment.at(found.timeline, source.slot(connection, job.slot), found.segment_bytes)
        goal = source.mark(connection)
        last = newest(job, found)
        begin, lost = _begin(connection, job, found, kept, last)
        if lost:
            log.error("%s", lost)
        while begin.start(found.segment_bytes) < goal.place:
            stretch = _stretch(job, found, programs, begin, goal, parent)
            assert stretch.cluster is not None
            source.advance(connection, job.slot, stretch.cluster.end)
            made.append(stretch)
            if (end := number(stretch.cluster.end)) >= goal.place:
                break
            begin = Segment.at(stretch.cluster.timeline, end, found.segment_bytes)
    return Round(tuple(made), sum(one.size for one in made), text(goal.place), lost)


def newest(job: Job, found: Source) -> Cluster | None:
    """The stretch that reaches furthest; None where this cluster has none yet."""
    prefix = job.prefix + LOG
    ids = manifest.committed(job.store, prefix)[-RECENT:]
    known = [manifest.read(job.store, prefix, id, platform=job.platform).cluster for id in ids]
    ours = [one for one in known if one is not None and one.system_identifier == found.system_identifier]
    return max(ours, key=lambda one: (one.timeline, number(one.end)), default=None)


def _begin(connection: Connection, job: Job, found: Source, kept: Segment, last: Cluster | None) -> tuple[Segment, str]:
    """The first segment to fetch; and what is lost, in words."""
    size = found.segment_bytes
    if last is None:
        return kept, ""
    wanted = Segment.at(last.timeline, number(last.end), size)
    if last.timeline != found.timeline:
        left = dict(source.history(job.conninfo, found.timeline)).get(last.timeline)
        if left is None:
            return kept, f"timeline {last.timeline}, of which the archive is, is not in this server's history"
        if number(last.end) >= left:
            # The new timeline's first segment holds the old one's end too.
            wanted = Segment.at(found.timeline, left, size)
    # What the slot does not keep, the server may still have: a slot that was made anew, a stretch that somebody lost.
    if wanted.number >= kept.number or _has(connection, wanted, size):
        return wanted, ""
    return kept, f"the server no longer has its log from {last.end} to {text(kept.start(size))}: {_WHY}"


_WHY = (
    "its slot was dropped, or given up for max_slot_wal_keep_size; nothing between the two can be recovered, make a"
    " base backup now"
)


def _has(connection: Connection, wanted: Segment, size: int) -> bool:
    """Whether the server still has a segment that nothing keeps."""
    name = wanted.name(size)
    return connection.execute("select from pg_ls_waldir() where name = %s", [name]).fetchone() is not None


def _stretch(job: Job, found: Source, programs: Programs, begin: Segment, goal: Mark, parent: Path) -> Manifest:
    id, started = manifest.new_id(), datetime.now(UTC)
    prefix = job.prefix + LOG
    size = found.segment_bytes
    end = min(goal.place, begin.start(size) + max(1, MOST // size) * size)
    room = end - begin.start(size) + 2 * size
    try:
        with scratch.directory(parent, job.platform, id, room) as place:
            files = _receive(job, programs, begin, end, size, place / "log")
            pieces = tuple(_piece(name, path) for name, path in files)
            written = base.write(job, LOG, id, ROLE, FILE, members.archive(files))
        last = max(found_ for name, _ in files if (found_ := Segment.of(name, size)) is not None)
        stretch = Manifest(
            id=id,
            platform=job.platform,
            kind="cluster",
            engine=ENGINE,
            started=started,
            finished=datetime.now(UTC),
            objects=base.objects(written),
            compression="gzip",
            encryption=manifest.Encryption(method=job.key.method, key_id=job.key.id) if job.key else None,
            cluster=Cluster(
                **base.described(found, programs),
                timeline=last.timeline,
                begin=text(begin.start(size)),
                end=text(end),
                until=goal.at if end == goal.place else started,
                log=pieces,
            ),
            dag_id=job.dag_id,
            run_id=job.run_id,
            tool=base.tool(),
        )
        manifest.commit(job.store, prefix, stretch)
    except BaseException:
        base.forget(job.store, manifest.folder(prefix, id))
        raise
    return stretch


def _receive(job: Job, programs: Programs, begin: Segment, end: int, size: int, place: Path) -> list[tuple[str, Path]]:
    """Segments and histories, by name; a segment that is not full is there in its full size, with nothing behind."""
    place.mkdir()
    # Where there is a piece of a segment, pg_receivewal begins with that segment.
    (place / f"{begin.name(size)}{PARTIAL}").touch()
    run(
        [
            *(programs("pg_receivewal"), f"--directory={place}", f"--endpos={text(end)}", "--no-loop", "--no-sync"),
            *("--no-password", f"--dbname={without_secrets(job.conninfo)}"),
        ],
        programs.environment(job.conninfo),
    )
    return sorted(_named(place, size))


def _named(place: Path, size: int) -> Iterator[tuple[str, Path]]:
    for path in place.iterdir():
        name = path.name.removesuffix(PARTIAL)
        if HISTORY.fullmatch(name) or (Segment.of(name, size) is not None and path.stat().st_size == size):
            yield name, path


def _piece(name: str, path: Path) -> manifest.Piece:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return manifest.Piece(name=name, bytes=path.stat().st_size, sha256=digest)
