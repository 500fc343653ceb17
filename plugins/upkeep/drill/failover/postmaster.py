"""The processes of a server on this machine: found by its data directory, and ended as a loss of power would."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from upkeep.drill.failover.node import Node
from upkeep.drill.failover.pair import DriverError

PID_FILE = "postmaster.pid"


def postmaster(node: Node) -> psutil.Process | None:
    """The server of this data directory; None when there is none."""
    try:
        process = psutil.Process(int((node.data / PID_FILE).read_text().split()[0]))
        mine = str(node.data) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, IndexError, psutil.Error):
        return None
    return process if mine else None


def kill(node: Node) -> None:
    """As a machine that loses its power: all its processes at once, and none of them hears of it."""
    process = postmaster(node)
    if process is None:
        bury(node)
        return
    locks = _locks(node)
    family = [process]
    with contextlib.suppress(psutil.Error):
        # None is forked any more, and none is missed.
        process.send_signal(signal.SIGSTOP)
        family += process.children(recursive=True)
    for one in family:
        with contextlib.suppress(psutil.Error):
            one.kill()
    until = time.monotonic() + 30
    while any(map(_lives, family)):
        if time.monotonic() > until:
            raise DriverError(f"{node.name} does not die", hint="look at its processes (state D: its disk hangs).")
        time.sleep(0.01)
    _unlock(locks, process.pid)


def bury(node: Node) -> None:
    """Whom nobody has collected still counts as alive for PostgreSQL, which then refuses to start."""
    with contextlib.suppress(OSError, ValueError, IndexError, psutil.NoSuchProcess):
        pid = int((node.data / PID_FILE).read_text().split()[0])
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            _unlock(_locks(node), pid)


def _locks(node: Node) -> list[Path]:
    """Of the data directory and of its sockets, as ``postmaster.pid`` names them."""
    lines = (node.data / PID_FILE).read_text().splitlines()
    port, directories = (lines[3].strip(), lines[4].split(",")) if len(lines) > 4 else ("", [])
    sockets = [Path(one.strip()) / f".s.PGSQL.{port}.lock" for one in directories if one.strip()]
    return [node.data / PID_FILE, *sockets]


def _unlock(locks: Sequence[Path], pid: int) -> None:
    """Remove those of a server that is surely dead; anybody else's stay."""
    for lock in locks:
        with contextlib.suppress(OSError, ValueError, IndexError):
            if abs(int(lock.read_text().split()[0])) == pid:
                lock.unlink()


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
