"""Wrongs that last as long as a process holds them: started to break, stopped to heal."""

from __future__ import annotations

import sys

from sandbox import processes
from sandbox.home import REPOSITORY, Home


def hold(home: Home, wrong: str, server: str) -> None:
    """Run ``sandbox.hold`` beside ``server`` until ``release``; return once the wrong is there."""
    name = _name(wrong, server)
    log = home.logs / f"{name}.log"
    if not processes.running(home, name):
        # What an earlier one said must not be taken for this one's word.
        log.unlink(missing_ok=True)
    processes.start(
        home,
        name,
        [sys.executable, "-m", "sandbox.hold", home.path, server, wrong],
        cwd=REPOSITORY,
        ready=lambda: "holding" in processes.tail(log),
    )


def release(home: Home, wrong: str, server: str) -> None:
    processes.stop(home, _name(wrong, server))


def _name(wrong: str, server: str) -> str:
    return f"hold.{server}.{wrong}"
