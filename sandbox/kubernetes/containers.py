"""Containers that really run: local processes, with their output in the log format of the CRI."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from sandbox.kubernetes import clock
from sandbox.kubernetes.resources import CONFIGMAPS, SECRETS
from sandbox.kubernetes.store import Store

Object = dict[str, Any]

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Runs between fork and exec: even a SIGKILL of this server leaves no pod behind."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """One container's process, in a session of its own; what it writes goes to ``log``, line by line."""

    def __init__(self, argv: list[str], environment: dict[str, str], directory: Path, log: Path) -> None:
        """:raises OSError: the command cannot be started."""
        self.log = log
        self._process = subprocess.Popen(
            argv,
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        self._reader = threading.Thread(target=self._copy, daemon=True)
        self._reader.start()

    def _copy(self) -> None:
        output = self._process.stdout
        if output is None:
            return
        with output, self.log.open("ab") as log:
            for line in output:
                log.write(stamped(line))
                log.flush()

    def exit_code(self) -> int | None:
        """None while it runs or its output is not yet read; 128 + the signal that killed it."""
        code = self._process.poll()
        if code is None:
            return None
        # A grandchild may hold the pipe open for ever; then the log is cut here.
        self._reader.join(timeout=0.5)
        return code if code >= 0 else 128 - code

    def signal(self, number: int) -> None:
        """To the whole group, grandchildren included."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def end(self) -> None:
        self.signal(signal.SIGKILL)
        self._process.wait()


def stamped(line: bytes) -> bytes:
    """``2026-01-01T00:00:00.000000Z stdout F text``"""
    return clock.now_micro().encode() + b" stdout F " + line.rstrip(b"\n") + b"\n"


def say(log: Path, *lines: str) -> None:
    """Write lines into a container's log, as if it had printed them."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        for line in lines:
            output.write(stamped(line.encode()))


def log_path(root: Path, pod: Object, container: str, restart: int) -> Path:
    metadata = pod["metadata"]
    return log_directory(root, metadata) / container / f"{restart}.log"


def log_directory(root: Path, metadata: Object) -> Path:
    return root / f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}"


def start(store: Store, root: Path, pod: Object, restart: int) -> Process:
    """
    Start the first container's command.

    :raises OSError: no such command, or it cannot be run.
    :raises LookupError: a ConfigMap or Secret that its environment needs is not there.
    """
    container = pod["spec"]["containers"][0]
    argv = [*(container.get("command") or []), *(container.get("args") or [])] or ["true"]
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/",
        "HOSTNAME": pod["metadata"]["name"],
        **_environment(store, pod, container),
    }
    log = log_path(root, pod, container["name"], restart)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
    return Process(
        [_expanded(part, environment) for part in argv],
        environment,
        Path(container.get("workingDir") or "/"),
        log,
    )


def _expanded(part: str, environment: dict[str, str]) -> str:
    for name, value in environment.items():
        part = part.replace(f"$({name})", value)
    return part


def _environment(store: Store, pod: Object, container: Object) -> dict[str, str]:
    namespace = pod["metadata"]["namespace"]
    made: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        for kind in ("configMapRef", "secretRef"):
            if kind in source:
                values = _data(store, namespace, kind, source[kind])
                made.update({source.get("prefix", "") + key: value for key, value in values.items()})
    for entry in container.get("env") or []:
        origin = entry.get("valueFrom") or {}
        if "fieldRef" in origin:
            made[entry["name"]] = _field(pod, origin["fieldRef"]["fieldPath"])
        elif origin:
            kind, reference = next(iter(origin.items()))
            values = _data(store, namespace, kind, reference)
            if reference["key"] in values:
                made[entry["name"]] = values[reference["key"]]
            elif not reference.get("optional"):
                raise LookupError(f"couldn't find key {reference['key']} in {kind} {namespace}/{reference['name']}")
        else:
            made[entry["name"]] = str(entry.get("value") or "")
    return made


def _data(store: Store, namespace: str, kind: str, reference: Object) -> dict[str, str]:
    secret = kind.startswith("secret")
    found = store.find(SECRETS if secret else CONFIGMAPS, namespace, reference["name"])
    if found is None:
        if reference.get("optional"):
            return {}
        raise LookupError(f'{"secret" if secret else "configmap"} "{reference["name"]}" not found')
    data = found.get("data") or {}
    return {key: base64.b64decode(value).decode() for key, value in data.items()} if secret else dict(data)


def _field(pod: Object, path: str) -> str:
    found: Any = pod
    for part in path.split("."):
        found = found.get(part, "") if isinstance(found, dict) else ""
    return str(found)


def read_log(path: Path, *, since: float | None, timestamps: bool, offset: int = 0) -> tuple[bytes, int]:
    """
    What a log holds from ``offset`` on, without the CRI's prefix unless ``timestamps``.

    :param since: Unix time; older lines are left out.
    :returns: the text and the offset to go on from.
    """
    try:
        with path.open("rb") as log:
            log.seek(offset)
            raw = log.read()
    except FileNotFoundError:
        return b"", offset
    whole = raw[: raw.rfind(b"\n") + 1]
    lines = []
    for line in whole.splitlines(keepends=True):
        moment, _, _, text = line.split(b" ", 3)
        if since is None or clock.parse(moment.decode()).timestamp() >= since:
            lines.append(moment + b" " + text if timestamps else text)
    return b"".join(lines), offset + len(whole)


def wait_for_output(seconds: float = 0.1) -> None:
    """Between two looks at a log that is being followed."""
    time.sleep(seconds)
