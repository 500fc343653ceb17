"""
A database cluster to throw away: made for one restore, reachable by its socket alone, gone afterwards.

Whoever makes one holds a lock on its directory; a directory that nobody holds was left by a dead worker, and
``sweep`` removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import psycopg
from psycopg.conninfo import make_conninfo

from upkeep.backup.programs import Programs, command, run
from upkeep.errors import UpkeepError

PREFIX = "upkeep-scratch-"
MARKER = "scratch.json"
SUPERUSER = "postgres"
READY_S = 60
ROOM = 1.2
"""Times the size of the database: what a restore needs beside the archive."""

FAST = {
    "listen_addresses": "",
    # It survives nothing, and need not.
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "archive_mode": "off",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "shared_buffers": "256MB",
    "maintenance_work_mem": "256MB",
    "jit": "off",
    "log_timezone": "UTC",
}


class ScratchError(UpkeepError):
    """No throw-away cluster could be made."""


class LeftError(UpkeepError):
    """A throw-away cluster could not be removed: production's data lies where nobody looks after it."""


@dataclass(frozen=True)
class Cluster:
    """A running one."""

    path: Path
    programs: Programs
    superuser: str = SUPERUSER

    def conninfo(self, database: str = "postgres") -> str:
        return make_conninfo(host=str(self.path), user=self.superuser, dbname=database, connect_timeout=10)


@dataclass(frozen=True)
class Left:
    """What a dead worker left, and is removed now."""

    path: Path
    id: str
    platform: str
    backup: str
    made_at: str


@contextmanager
def directory(parent: Path, platform: str, backup: str, room: int) -> Iterator[Path]:
    """
    A private directory with a lock; gone afterwards, with all that is in it.

    :param room: bytes that must be free.
    :raises ScratchError: they are not. :raises LeftError: it could not be removed.
    """
    parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(parent).free) < room:
        raise ScratchError(
            f"{parent} has {free / 1e9:.1f} GB free, and restoring this backup takes {room / 1e9:.1f}",
            hint="make room, or name a larger disk as `scratch` in include/upkeep.yaml.",
        )
    made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    if len(str(made / ".s.PGSQL.5432")) > 107:
        made.rmdir()
        raise ScratchError(
            f"{made} is too long a path for a socket", hint="name a shorter `scratch` in include/upkeep.yaml."
        )
    with _held(made) as mine:
        assert mine
        (made / MARKER).write_text(
            json.dumps({"platform": platform, "backup": backup, "made_at": datetime.now(UTC).isoformat()})
        )
        try:
            yield made
        finally:
            remove(made)


@contextmanager
def cluster(path: Path, programs: Programs, encoding: str) -> Iterator[Cluster]:
    """A running cluster in a directory of ``directory``; stopped afterwards. :raises ProgramError: initdb failed."""
    run(
        [
            *(programs("initdb"), "-D", str(path / "data"), "-U", SUPERUSER, "--auth=trust", "--no-sync"),
            *(f"--encoding={encoding}", "--no-locale", "--no-instructions"),
        ],
        programs.environment(),
        unprivileged=True,
    )
    with running(Cluster(path, programs), FAST) as made:
        yield made


@contextmanager
def running(made: Cluster, given: Mapping[str, str], *, ready_s: float = READY_S) -> Iterator[Cluster]:
    """
    A server on the data in ``data`` below the cluster's path, reachable by its socket alone; stopped afterwards.

    :param given: settings. :param ready_s: so long it may take until it answers.
    :raises ScratchError: it does not start; ends with what it said.
    """
    path, programs = made.path, made.programs
    settings = {**given, "unix_socket_directories": str(path), "unix_socket_permissions": "0700"}
    arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    with (path / "log").open("wb") as log:
        server = subprocess.Popen(
            command([programs("postgres"), "-D", str(path / "data"), *arguments], unprivileged=True),
            env=programs.environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _wait(server, made, ready_s)
        yield made
    finally:
        _stop(server)


def _wait(server: subprocess.Popen[bytes], made: Cluster, ready_s: float) -> None:
    until = time.monotonic() + ready_s
    while True:
        try:
            psycopg.connect(made.conninfo()).close()
            return
        except psycopg.OperationalError as not_yet:
            if server.poll() is None and time.monotonic() < until:
                time.sleep(0.05)
                continue
            tail = " ".join((made.path / "log").read_text(errors="replace").split())[-600:]
            raise ScratchError(
                f"the throw-away cluster does not start: {tail or not_yet}", hint="read what its server says."
            ) from None


def _stop(server: subprocess.Popen[bytes]) -> None:
    # At once and without a checkpoint: nothing of it is kept.
    for sign in (signal.SIGQUIT, signal.SIGKILL):
        if server.poll() is None:
            server.send_signal(sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(20)


def remove(path: Path) -> None:
    """:raises LeftError: something of it is left."""
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        raise LeftError(
            f"{path} on {socket.gethostname()} could not be removed",
            hint="it holds production's data: remove it by hand.",
        )


def left(parent: Path) -> list[Path]:
    """Directories of throw-away clusters whose maker is dead."""
    found = []
    for path in sorted(parent.glob(f"{PREFIX}*")):
        if path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.geteuid():
            with _held(path) as mine:
                # One without a marker is being made at this moment, or nearly was.
                if mine and ((path / MARKER).exists() or time.time() - path.stat().st_mtime > 3600):
                    found.append(path)
    return found


def sweep(parent: Path) -> list[Left]:
    """Stop and remove what dead workers left. :raises LeftError: something of it is left all the same."""
    gone = []
    for path in left(parent):
        with _held(path) as mine:
            if not mine:
                continue
            said = json.loads((path / MARKER).read_text() or "{}") if (path / MARKER).exists() else {}
            _kill(path / "data")
            remove(path)
            gone.append(
                Left(path, path.name, said.get("platform", ""), said.get("backup", ""), said.get("made_at", ""))
            )
    return gone


def _kill(data: Path) -> None:
    """End a server that outlived its worker: it is the one whose arguments name this directory."""
    try:
        pid = int((data / "postmaster.pid").read_text().split()[0])
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError, IndexError):
        return
    if os.fsencode(data) in arguments:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)
            for _ in range(100):
                os.kill(pid, 0)
                time.sleep(0.1)
            os.kill(pid, signal.SIGKILL)


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Whether nobody else holds this directory; held until the block ends or this process dies."""
    lock: IO[str]
    try:
        lock = (path / "lock").open("w")
    except FileNotFoundError:
        yield False
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
