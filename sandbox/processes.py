"""Starting and stopping the sandbox's processes, and never one that is not ours."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from sandbox.home import Home, SandboxError


def start(
    home: Home,
    name: str,
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    ready: Callable[[], bool] | None = None,
    timeout_s: float = 20.0,
    stop_signal: int = signal.SIGTERM,
    **popen: Any,
) -> int:
    """
    Start a server in a session of its own, unless it runs already; return its pid.

    Output goes to ``logs/<name>.log``. ``ready`` is asked every 50 ms. ``stop`` will send ``stop_signal``.

    :raises SandboxError: it died, or was not ready within ``timeout_s``; the message ends with its last lines.
    """
    if pid := running(home, name):
        return pid
    log = home.logs / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in argv],
            env={**os.environ, **(env or {})},
            cwd=cwd or home.path,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **popen,
        )
    adopt(home, name, process.pid, [str(part) for part in argv], stop_signal=stop_signal)
    wait_until(lambda: process.poll() is not None or ready is None or ready(), timeout_s, f"{name} to start", log)
    if process.poll() is not None:
        raise SandboxError(f"{name} ended at once with {process.returncode}; {log}:\n{tail(log)}")
    return process.pid


def adopt(home: Home, name: str, pid: int, argv: Sequence[str], *, stop_signal: int = signal.SIGTERM) -> None:
    """Remember a process that was started some other way (by an ``up`` that was killed)."""
    created = psutil.Process(pid).create_time()
    record = {"pid": pid, "created": created, "argv": list(argv), "stop_signal": int(stop_signal)}
    with home.change() as state:
        state.setdefault("processes", {})[name] = record


def running(home: Home, name: str) -> int | None:
    """The pid of server ``name`` when it is alive and still the process that was started."""
    record = home.state().get("processes", {}).get(name)
    process = _same(record) if record else None
    return process.pid if process else None


def _same(record: Mapping[str, Any]) -> psutil.Process | None:
    """A pid can be given to somebody else; pid and creation time together cannot."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(int(record["pid"]))
        if abs(process.create_time() - float(record["created"])) < 1 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def stop(home: Home, name: str, *, sig: int | None = None, timeout_s: float = 10.0) -> None:
    """End server ``name`` and its children, by ``sig`` or its own stop signal; nothing happens when it does not run."""
    with home.change() as state:
        record = state.get("processes", {}).pop(name, None)
    process = _same(record) if record else None
    if process is None:
        return
    family = [process]
    with contextlib.suppress(psutil.Error):
        family += process.children(recursive=True)
    with contextlib.suppress(psutil.Error):
        process.send_signal(sig or int(record.get("stop_signal", signal.SIGTERM)))
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and not all(_ended(member) for member in family):
        time.sleep(0.02)
    for member in family:
        if not _ended(member):
            with contextlib.suppress(psutil.Error):
                member.kill()
    # Collects those that this process started itself.
    psutil.wait_procs(family, timeout=0.1)


def _ended(process: psutil.Process) -> bool:
    """A zombie has ended as well: whoever should collect it may be slow to, or gone."""
    with contextlib.suppress(psutil.Error):
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


def wait_until(true: Callable[[], bool], timeout_s: float, what: str, log: Path | None = None) -> None:
    """Ask ``true`` every 50 ms. :raises SandboxError: not within ``timeout_s`` seconds."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            raise SandboxError(f"waited {timeout_s:g} s for {what}" + (f"; {log}:\n{tail(log)}" if log else ""))
        time.sleep(0.05)


def listening(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, port)) == 0


def tail(path: Path, lines: int = 12) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    return ""
