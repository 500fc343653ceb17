"""
Recovery of a cluster: base backup, then its log, to the newest point or to one that is named, in isolation.

The server that comes up is production's in every byte but for its settings: it listens on a socket in a private
directory alone, loads no libraries, archives nothing, subscribes to nothing, and asks for no password.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from upkeep.backup import programs, reading, scratch
from upkeep.backup.compression import CompressionError
from upkeep.backup.encryption import DecryptionError, WrongKeyError
from upkeep.backup.faults import Fault
from upkeep.backup.manifest import Cluster, Manifest
from upkeep.backup.physical import archive, segments
from upkeep.backup.physical.archive import NEWEST, Archive, Needed, Target, UnrecoverableError
from upkeep.backup.physical.base import BASE
from upkeep.backup.physical.lsn import number
from upkeep.backup.physical.wal import ROLE
from upkeep.backup.programs import ProgramError, Programs, run
from upkeep.backup.restoring import Proof, this_workers_fault
from upkeep.backup.verification import Subject
from upkeep.errors import SettingsError
from upkeep.postgres.session import connect

ROOM = 1.2
BUFFER = 64 * 1024
RECOVER_S = 24 * 3600
"""Replaying a week's log takes hours; whoever calls has a limit of his own."""

PAGE_HEADER = 40
"""Bytes between the end of one record and the beginning of the next, at most, where a page begins in between."""

ISOLATED = {
    **scratch.FAST,
    "wal_level": "replica",
    "hot_standby": "off",
    "shared_preload_libraries": "",
    "session_preload_libraries": "",
    "local_preload_libraries": "",
    "max_logical_replication_workers": "0",
    "primary_conninfo": "",
    "archive_command": "",
    "recovery_target_timeline": "latest",
    "recovery_target_action": "promote",
    "log_min_messages": "log",
    "lc_messages": "C",
}

WAL = "wal"
FORGOTTEN = ("postmaster.pid", "postmaster.opts", "standby.signal")


@dataclass
class Recovered:
    """A running copy of the cluster."""

    cluster: scratch.Cluster
    base: Manifest
    database: str
    """The platform's."""

    seconds: dict[str, float]
    """By phase: find, fetch, verify, replay."""

    until: datetime | None
    """Commit time of the last transaction that is in it; None when none was replayed."""

    lsn: str
    """So far the log was replayed."""

    timeline: int
    """The new one that began there."""

    facts: dict[str, Any] = field(default_factory=dict)
    began: dict[str, datetime] = field(default_factory=dict)

    def conninfo(self, database: str = "") -> str:
        return self.cluster.conninfo(database or self.database)


def _nothing(path: Path) -> None:
    pass


@contextmanager
def recover(
    subject: Subject,
    parent: Path,
    target: Target = NEWEST,
    *,
    made: Callable[[Path], None] = _nothing,
    removed: Callable[[Path], None] = _nothing,
) -> Iterator[Recovered]:
    """
    A cluster recovered to ``target``, running for as long as the block does; nothing of it is left afterwards.

    :param subject: ``prefix`` is that of the platform's clusters (``cluster/``); ``id`` a base backup, or empty for
        the one that is nearest before the target.
    :param parent: where it lies; needs room for the cluster, the base backups it is made from, and the log.
    :param made: told of its directory before there is anything in it, and ``removed`` when it is gone.
    :raises UnrecoverableError: the target cannot be reached; says every fault that was found.
    :raises StoreError: the store is away. :raises ScratchError: it cannot be done here. :raises LeftError: something
        of it is left. :raises SettingsError: this worker has no server of that version.
    """
    proof = Proof()
    with proof.phase("find"):
        found = archive.look(subject.store, subject.prefix, subject.platform)
        base = _base(found, subject, target)
        bases = archive.chain(found, base)
        needed = archive.needed(found, base, target)
        server = _server(archive.cluster(base), subject.programs)
        if needed.faults:
            raise UnrecoverableError(needed.faults)
    source = archive.cluster(base)
    room = int(source.source_bytes * ROOM * (1 + (len(bases) > 1))) + needed.bytes
    with scratch.directory(parent, subject.platform, base.id, room) as place:
        made(place)
        _lay_out(subject, bases, needed, server, place, proof)
        settings = _settings(place, server, target)
        with ExitStack() as running:
            with proof.phase("replay"):
                cluster = _start(running, scratch.Cluster(place, server, source.superuser), settings, target)
            yield _recovered(cluster, base, needed, target, proof)
    removed(place)


def _base(found: Archive, subject: Subject, target: Target) -> Manifest:
    if not subject.id:
        return archive.choose(found, target)
    for one in found.bases:
        if one.id == subject.id:
            return one
    why = found.unread.get(subject.id, "it is not in the archive")
    raise UnrecoverableError([Fault("manifest", f"base backup {subject.id} cannot be used: {why}")])


def _server(source: Cluster, more: Sequence[Path]) -> Programs:
    major = source.server_version // 10_000
    found = programs.server(major, more)
    if found is None:
        raise SettingsError(
            f"no PostgreSQL {major} server on this worker to recover with",
            hint=f"install postgresql-{major}, or name its directory in `postgres_programs` of include/upkeep.yaml.",
        )
    return found


# -- fetching --------------------------------------------------------------------------------------------


def _lay_out(
    subject: Subject, bases: Sequence[Manifest], needed: Needed, server: Programs, place: Path, proof: Proof
) -> None:
    """Data and log, compared with what they should be. :raises UnrecoverableError: they are not."""
    (place / WAL).mkdir()
    with proof.phase("fetch"), ThreadPoolExecutor(1, thread_name_prefix="fetch") as pool:
        log = pool.submit(_fetch_log, subject, needed, place / WAL)
        faults = [fault for one in bases for fault in _fetch_base(subject, one, place / one.id)]
        faults += log.result()
    if faults:
        raise UnrecoverableError(faults)
    with proof.phase("verify"):
        for one in bases:
            _verify(server, one, place / one.id)
    data = place / "data"
    if len(bases) == 1:
        (place / bases[0].id).rename(data)
    else:
        with proof.phase("combine"):
            _combine(server, [place / one.id for one in bases], data)
    _leave_production(data)


def _fetch_base(subject: Subject, base: Manifest, into: Path) -> list[Fault]:
    into.mkdir(mode=0o700)
    raw = reading.Objects(subject.store, base.role(BASE))
    unread = _unpack(raw, base, subject, BASE, into)
    for _ in raw:
        pass
    # What does not match says more than what could not be unpacked of it.
    return raw.faults or unread


def _fetch_log(subject: Subject, needed: Needed, into: Path) -> list[Fault]:
    faults: list[Fault] = []
    # A later stretch holds more of the segment that an earlier one ended with.
    for one in needed.log:
        raw = reading.Objects(subject.store, one.role(ROLE))
        unread = _unpack(raw, one, subject, ROLE, into)
        for _ in raw:
            pass
        faults += raw.faults or unread or segments.look(into, archive.cluster(one))
    return faults


def _unpack(raw: reading.Objects, one: Manifest, subject: Subject, role: str, into: Path) -> list[Fault]:
    file = _File(reading.plain(raw, one, subject.key, role))
    try:
        with tarfile.open(fileobj=io.BufferedReader(file, BUFFER), mode="r|", bufsize=BUFFER) as tar:
            tar.extractall(into, filter="data")
    except DecryptionError as unread:
        kind = "key" if isinstance(unread, WrongKeyError) else "unreadable"
        return [Fault(kind, f"{one.id}: {role} cannot be decrypted: {unread.message}")]  # type: ignore[arg-type]
    except CompressionError as unread:
        return [Fault("unreadable", f"{one.id}: {role} cannot be decompressed: {unread.message}")]
    except tarfile.TarError as unread:
        return [Fault("contents", f"{one.id}: {role} is no whole archive: {unread}")]
    except OSError as full:
        if cure := this_workers_fault(str(full)):
            raise scratch.ScratchError(f"it could not be unpacked here: {full}", hint=cure) from None
        raise
    return []


class _File(io.RawIOBase):
    """What tarfile reads a stream from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        size = min(len(self._rest), len(into))
        into[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def _verify(server: Programs, base: Manifest, place: Path) -> None:
    """PostgreSQL's own comparison of the files with its list, its log included."""
    try:
        run([server("pg_verifybackup"), "--quiet", str(place)], server.environment())
    except ProgramError as wrong:
        raise UnrecoverableError([Fault("contents", f"base backup {base.id}: {wrong.message}")]) from None


def _combine(server: Programs, places: Sequence[Path], data: Path) -> None:
    try:
        run([server("pg_combinebackup"), "--no-sync", f"--output={data}", *map(str, places)], server.environment())
    except ProgramError as wrong:
        if cure := this_workers_fault(wrong.message):
            raise scratch.ScratchError(f"it could not be combined here: {wrong.message}", hint=cure) from None
        raise UnrecoverableError([Fault("restore", wrong.message)]) from None


def _leave_production(data: Path) -> None:
    """Nothing of how production was run is left: its settings, its doors, its standby's errands."""
    for name in FORGOTTEN:
        (data / name).unlink(missing_ok=True)
    (data / "postgresql.auto.conf").write_text("")
    (data / "recovery.signal").touch()
    data.chmod(0o700)


# -- starting --------------------------------------------------------------------------------------------


def _settings(place: Path, server: Programs, target: Target) -> dict[str, str]:
    (place / "postgresql.conf").write_text("")
    (place / "pg_hba.conf").write_text("local all all trust\n")
    (place / "pg_ident.conf").write_text("")
    said = run([server("pg_controldata"), "-D", str(place / "data")], server.environment())
    kept = {
        name: found[1]
        for name, label in (
            ("max_connections", "max_connections"),
            ("max_worker_processes", "max_worker_processes"),
            ("max_prepared_transactions", "max_prepared_xacts"),
            ("max_locks_per_transaction", "max_locks_per_xact"),
        )
        if (found := re.search(rf"(?m)^{label} setting:\s+(\d+)", said))
    }
    return {
        **ISOLATED,
        **kept,
        **target.settings(),
        "config_file": str(place / "postgresql.conf"),
        "hba_file": str(place / "pg_hba.conf"),
        "ident_file": str(place / "pg_ident.conf"),
        "restore_command": f'cp "{place}/{WAL}/%f" "%p"',
    }


def _start(running: ExitStack, made: scratch.Cluster, settings: dict[str, str], target: Target) -> scratch.Cluster:
    """When this returns, the log was replayed. :raises UnrecoverableError: it could not be."""
    try:
        return running.enter_context(scratch.running(made, settings, ready_s=RECOVER_S))
    except scratch.ScratchError as dead:
        raise _why(dead, (made.path / "log").read_text(errors="replace"), target) from None


_UNREACHED = (
    ("recovery ended before configured recovery target was reached", "the log ends before {target}"),
    ("requested recovery stop point is before consistent recovery point", "the base backup is younger than {target}"),
    ("WAL ends before end of online backup", "the log ends within the base backup: it was not kept whole"),
    ("could not locate required checkpoint record", "the log in which the base backup begins is not there"),
    ("could not locate a valid checkpoint record", "the log in which the base backup begins is not there"),
    ("WAL ends before consistent recovery point", "the log ends before the base backup is consistent"),
)


def _why(dead: scratch.ScratchError, said: str, target: Target) -> Exception:
    for wrong, meaning in _UNREACHED:
        if wrong in said or wrong in dead.message:
            meaning = meaning.format(target=target)
            return UnrecoverableError([Fault("recovery", f"{meaning} (the server says: {wrong})")])
    if cure := this_workers_fault(dead.message):
        return scratch.ScratchError(dead.message, hint=cure)
    return UnrecoverableError([Fault("recovery", dead.message)])


def _recovered(cluster: scratch.Cluster, base: Manifest, needed: Needed, target: Target, proof: Proof) -> Recovered:
    """:raises UnrecoverableError: the log broke off before its end."""
    with connect(cluster.conninfo()) as connection:
        row = connection.execute(
            "select pg_last_wal_replay_lsn()::text as lsn, pg_last_xact_replay_timestamp() as until,"
            " (select timeline_id from pg_control_checkpoint()) as timeline, pg_is_in_recovery() as recovering"
        ).fetchone()
    assert row is not None
    lsn = row["lsn"] or archive.cluster(base).end
    if target == NEWEST and needed.end and number(lsn) + PAGE_HEADER < number(needed.end):
        raise UnrecoverableError(
            [Fault("recovery", f"the log could be replayed to {lsn} alone, and the archive reaches to {needed.end}")]
        )
    until = row["until"].astimezone(UTC) if row["until"] else None
    return Recovered(
        cluster=cluster,
        base=base,
        database=archive.cluster(base).database,
        seconds=proof.seconds,
        began=proof.began,
        until=until,
        lsn=lsn,
        timeline=row["timeline"],
        facts={
            "base": base.id,
            "target": str(target),
            "until": until.isoformat() if until else None,
            "lsn": lsn,
            "log_bytes": needed.bytes,
            "stretches": len(needed.log),
        },
    )
