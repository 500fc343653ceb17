"""The processes of a server on this machine: found by its data directory, and ended as a loss of power would."""

from __future__ import annotations

import contextlib
import signal
import time

import psutil

from upkeep.drill.failover.node import Node
from upkeep.drill.failover.pair import DriverError


def postmaster(node: Node) -> psutil.Process | None:
    """The server of this data directory; None when there is none."""
    try:
        process = psutil.Process(int((node.data / "postmaster.pid").read_text().split()[0]))
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
    bury(node)


def bury(node: Node) -> None:
    """Whom nobody has collected still counts as alive for PostgreSQL, which then refuses to start."""
    file = node.data / "postmaster.pid"
    with contextlib.suppress(OSError, ValueError, IndexError, psutil.NoSuchProcess):
        if psutil.Process(int(file.read_text().split()[0])).status() == psutil.STATUS_ZOMBIE:
            file.unlink()


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
