"""One server on this machine: where it lies, whether we may work on it, and its own configuration."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from upkeep.backup import programs
from upkeep.backup.programs import Programs
from upkeep.drill.failover.pair import DriverError

SIGNAL = "standby.signal"
CONFIGURATION = ("postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf")
"""pg_rewind and pg_basebackup bring those of the other server."""

LEFT = ".upkeep-rejoin"
"""Directory beside a data directory while its server is being made a standby."""

HALF = "half"
"""File in it: pg_rewind has begun; what it was interrupted in is of no use any more."""


@dataclass(frozen=True)
class Node:
    """One server on this machine."""

    name: str
    conninfo: str
    """As the maintenance role, to the platform's database."""

    data: Path
    programs: Path
    """Directory with ``postgres``, ``pg_ctl``, ``pg_rewind``, ``pg_basebackup``."""

    log: Path | None = None
    """Where the server writes when we start it; beside the data directory when left out."""

    @property
    def address(self) -> tuple[str, int]:
        said = conninfo_to_dict(self.conninfo)
        return str(said.get("host") or ""), int(said.get("port") or 5432)

    @property
    def left(self) -> Path:
        return self.data.with_name(f"{self.data.name}{LEFT}")


def refuse(node: Node) -> None:
    # Between the removal of a spoilt one and its copy there is none.
    if not (node.data / "PG_VERSION").exists() and not (node.left / HALF).exists():
        raise DriverError(
            f"{node.name}: {node.data} is no data directory", hint="correct `data` in the connection's extra."
        )
    owner = (node.data if node.data.exists() else node.left).stat().st_uid
    if owner != os.geteuid():
        raise DriverError(
            f"{node.name}: {node.data} belongs to user {owner}, and this worker is user {os.geteuid()}",
            hint="run this task where the servers run, as their user (`execution.queue` of the platform file).",
        )
    programs_of(node)


def programs_of(node: Node) -> Programs:
    for one in programs.installed([node.programs]):
        if one.directory == node.programs.resolve() and (one.directory / "pg_rewind").exists():
            return one
    raise DriverError(
        f"{node.name}: {node.programs} has no pg_ctl and pg_rewind",
        hint="name the `bin` directory of its PostgreSQL as `programs` in the connection's extra.",
    )


def keep_configuration(node: Node) -> None:
    """Copies of the server's own files, complete before anything else of it is touched."""
    if (node.left / "kept").exists():
        return
    node.left.mkdir(mode=0o700, exist_ok=True)
    for name in CONFIGURATION:
        if (node.data / name).exists():
            shutil.copy2(node.data / name, node.left / name)
    (node.left / "kept").touch()


def own_upstream(node: Node) -> str:
    """How it reached its primary when it was a standby last; empty when it never was one."""
    for place in (node.left, node.data):
        file = place / "postgresql.auto.conf"
        if file.exists():
            said = re.findall(r"^primary_conninfo = '((?:[^']|'')*)'", file.read_text(), re.M)
            return said[-1].replace("''", "'") if said else ""
    return ""


def configure(node: Node, upstream: str, slot: str) -> None:
    """Its own configuration again, as a standby."""
    for name in CONFIGURATION:
        if (node.left / name).exists():
            shutil.copy2(node.left / name, node.data / name)
    automatic = node.data / "postgresql.auto.conf"
    ours = {"primary_conninfo": upstream, "primary_slot_name": slot}
    kept = [
        line
        for line in (automatic.read_text().splitlines() if automatic.exists() else [])
        if line.split("=")[0].strip() not in ours
    ]
    made = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in ours.items()]
    automatic.write_text("\n".join([*kept, *made]) + "\n")
    (node.data / SIGNAL).touch(mode=0o600)
