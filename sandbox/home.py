"""Where one sandbox lives: its directory, its ports, its processes and what it tells the outside.

Everything the servers need to know of each other goes through ``state.json``; it is written atomically
under a lock, so several processes may change it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
TOOLS = Path(os.environ.get("UPKEEP_TOOLS", REPOSITORY / ".tools"))
"""Unpacked server binaries that are not wheels (Debian packages); shared by all sandboxes of a checkout."""


class SandboxError(Exception):
    """Something the caller can mend; the message says how."""


@dataclass(frozen=True)
class Home:
    """
    One sandbox.

    ``path/state.json`` holds::

        ports        {"redis.studyspot": 26379, ...}
        processes    {"redis.studyspot": {"pid": 1, "created": 1.5, "argv": [...]}, ...}
        facts        {"redis.studyspot": {...}}      what a server wants to remember (passwords, directories)
        connections  {"studyspot_redis": {...}}      Airflow connections, in Airflow's JSON form
        connect_to   {"api.studyspot.com:443": "127.0.0.1:28443"}
        broken       ["redis_down", ...]             faults that are on now
    """

    path: Path

    usual_ports: bool = False
    """Try the ports that people remember first; two sandboxes that start at once would race for them."""

    @classmethod
    def default(cls) -> Home:
        """The sandbox of this checkout, or the one ``UPKEEP_SANDBOX`` names."""
        return cls(Path(os.environ.get("UPKEEP_SANDBOX", REPOSITORY / ".sandbox")).resolve(), usual_ports=True)

    def directory(self, name: str) -> Path:
        """``path/name``, made when missing."""
        made = self.path / name
        made.mkdir(parents=True, exist_ok=True)
        return made

    @property
    def logs(self) -> Path:
        return self.directory("logs")

    # -- state -----------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.path / "state.json").read_text()))
        except FileNotFoundError:
            return {}

    @contextmanager
    def change(self) -> Iterator[dict[str, Any]]:
        """The state, to be changed in place; written back when the block ends well."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.state()
            yield state
            self._write("state.json", state)
            # Read by Airflow's processes whenever they need a connection or a setting, so that servers may come later.
            self._write("connections.json", state.get("connections", {}))
            settings = {
                "connect_to": state.get("connect_to", {}),
                "host_root": str(self.path / "hosts"),
                "spool": str(self.path / "spool"),
                "postgres_programs": _programs(state.get("facts", {})),
                "reports": f"file://{self.path / 'reports'}",
            }
            self._write("upkeep.yaml", settings)

    def _write(self, name: str, content: Any) -> None:
        draft = self.path / f"{name}.draft"
        # They hold passwords.
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(content, indent=1))
        draft.replace(self.path / name)

    def facts(self, name: str) -> dict[str, Any]:
        """What the server ``name`` remembered; empty before its first start."""
        return dict(self.state().get("facts", {}).get(name, {}))

    def remember(self, name: str, **facts: Any) -> None:
        with self.change() as state:
            state.setdefault("facts", {}).setdefault(name, {}).update(facts)

    def connect(self, conn_id: str, connection: dict[str, Any]) -> None:
        """Publish an Airflow connection (``{"conn_type": ..., "host": ..., ...}``)."""
        with self.change() as state:
            state.setdefault("connections", {})[conn_id] = connection

    def connect_to(self, address: str, actual: str) -> None:
        """Publish that ``host:port`` as the platform files name it is really at ``actual``."""
        with self.change() as state:
            state.setdefault("connect_to", {})[address] = actual

    def port(self, name: str, preferred: int | None = None) -> int:
        """The port of server ``name``: the same for the life of this sandbox, free when first asked for."""
        with self.change() as state:
            ports = state.setdefault("ports", {})
            if name not in ports:
                taken = set(ports.values())
                usual = preferred if self.usual_ports and preferred not in taken else None
                ports[name] = usual if usual and _free(usual) else _any_free(taken)
            return int(ports[name])


def _programs(facts: dict[str, dict[str, Any]]) -> list[str]:
    """The ``bin`` directories of the clusters' versions, but for those that a fault has taken from the workers."""
    without = facts.get("workers", {}).get("without_postgres", [])
    return sorted({one["bin"] for one in facts.values() if "bin" in one and one["version"] not in without})


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _any_free(taken: set[int]) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port
