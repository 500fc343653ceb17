"""
A plain streaming pair whose servers run on the worker itself, or below directories that it sees, as its own user.

Killed, promoted, rewound and started by PostgreSQL's own means alone. What is needed afterwards to put a server back is
laid beside its data directory before the first byte is changed, so that whoever comes after a dead worker finds it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from upkeep.backup import programs
from upkeep.backup.programs import ProgramError, Programs, run, without_secrets
from upkeep.drill.failover import pair
from upkeep.drill.failover.pair import DriverError, Pair, Scenario
from upkeep.postgres.session import Connection, connect

log = logging.getLogger(__name__)

CONFIGURATION = ("postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf")
"""pg_rewind and pg_basebackup bring those of the other server."""

LEFT = ".upkeep-rejoin"
"""Directory beside a data directory while its server is being made a standby."""

HALF = "half"
"""File in it: pg_rewind has begun; what it was interrupted in is of no use any more."""

READY_S = 60
DECIDED_S = 5


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


class LocalDriver:
    """See the module. :raises DriverError: a data directory is not ours to work on."""

    kind = "streaming"

    def __init__(self, nodes: Sequence[Node], *, ready_s: float = READY_S) -> None:
        if len(nodes) < 2:
            raise DriverError(
                f"{len(nodes)} server of a pair is named", hint="name the primary and a standby in `nodes`."
            )
        self.nodes = {node.name: node for node in nodes}
        self.ready_s = ready_s
        for node in nodes:
            _refuse(node)

    # -- looking -------------------------------------------------------------------------------------------

    def conninfo(self) -> str:
        return pair.every([node.conninfo for node in self.nodes.values()])

    def look(self) -> Pair:
        return pair.look({name: node.conninfo for name, node in self.nodes.items()})

    def ill(self) -> str:
        if left := [node.left for node in self.nodes.values() if node.left.exists()]:
            return f"{left[0]} is there: a server was being made a standby"
        return self.look().ill({name: node.address for name, node in self.nodes.items()})

    # -- doing ---------------------------------------------------------------------------------------------

    def fail(self, name: str, scenario: Scenario) -> None:
        node = self.nodes[name]
        if scenario == "switchover":
            self._pg_ctl(node, "stop", "--mode=fast", f"--timeout={int(self.ready_s)}")
            return
        _kill(node)

    def promote(self, name: str) -> None:
        with connect(self.nodes[name].conninfo) as connection:
            connection.execute("select pg_promote(false)")

    def rejoin(self, name: str, primary: str) -> str:
        node, source = self.nodes[name], self.nodes[primary]
        _kill(node)
        half = node.left / HALF
        interrupted = half.exists()
        _keep_configuration(node)
        upstream = _upstream(source)
        slot = _slot(source, name)
        half.touch()
        how = "" if interrupted else self._rewind(node, source)
        how = how or self._copy(node, source)
        _configure(node, upstream, slot)
        half.unlink()
        self._start(node)
        self._streams(node, source)
        _drop_slots(node)
        shutil.rmtree(node.left)
        return how

    def mend(self, was_primary: str) -> list[str]:
        done: list[str] = []
        found = self._decided()
        if len(found.primaries) > 1:
            raise DriverError(
                f"two primaries: {found}",
                hint="decide which one is right, stop the other, and make it a standby with pg_rewind.",
            )
        if not found.primaries:
            # Nobody was promoted: the old one comes up from its own log.
            node = self.nodes[was_primary]
            if (node.left / HALF).exists():
                raise DriverError(
                    f"no server is primary, and {was_primary} is half rewound", hint="promote the standby by hand."
                )
            self._start(node)
            done.append(f"{was_primary} started again")
            found = self._decided()
        primary = found.primary.name
        for name, node in self.nodes.items():
            if name == primary:
                if node.left.exists():
                    shutil.rmtree(node.left)
                continue
            seen = found[name]
            if seen.up and seen.standby and not (node.left / HALF).exists():
                with contextlib.suppress(DriverError):
                    self._streams(node, self.nodes[primary], within_s=min(20.0, self.ready_s))
                    _drop_slots(node)
                    shutil.rmtree(node.left, ignore_errors=True)
                    continue
            done.append(f"{name} made a standby by {self.rejoin(name, primary)}")
        return done

    # -- how -----------------------------------------------------------------------------------------------

    def _decided(self) -> Pair:
        """A server that runs answers in the end, and a standby that was told to become the primary does so, or not."""
        began = time.monotonic()
        while True:
            found, waited = self.look(), time.monotonic() - began
            silent = [one.name for one in found.servers if not one.up and _postmaster(self.nodes[one.name])]
            if (found.primaries or waited > DECIDED_S) and (not silent or waited > self.ready_s):
                return found
            time.sleep(0.2)

    def _rewind(self, node: Node, source: Node) -> str:
        """Empty when it could not be done."""
        used = _programs(node)
        _checkpoint(source, time.monotonic() + self.ready_s)
        try:
            run(
                [
                    *(used("pg_rewind"), f"--target-pgdata={node.data}", "--no-sync"),
                    f"--source-server={without_secrets(source.conninfo)}",
                ],
                used.environment(source.conninfo),
                unprivileged=True,
            )
        except ProgramError as failed:
            log.warning("%s cannot be rewound, and is copied anew: %s", node.name, failed.message)
            return ""
        return "pg_rewind"

    def _copy(self, node: Node, source: Node) -> str:
        """A fresh base backup in the place of what is there."""
        used = _programs(node)
        made = node.left / "copy"
        shutil.rmtree(made, ignore_errors=True)
        run(
            [
                *(used("pg_basebackup"), f"--pgdata={made}", "--wal-method=stream", "--checkpoint=fast", "--no-sync"),
                *("--no-password", f"--dbname={without_secrets(source.conninfo)}"),
            ],
            used.environment(source.conninfo),
            unprivileged=True,
        )
        shutil.rmtree(node.data, ignore_errors=True)
        made.rename(node.data)
        return "a fresh base backup"

    def _start(self, node: Node) -> None:
        _bury(node)
        file = node.log or node.data.with_name(f"{node.data.name}.log")
        until = time.monotonic() + self.ready_s
        while True:
            before = file.stat().st_size if file.exists() else 0
            try:
                self._pg_ctl(node, "start", f"--log={file}", "--wait", f"--timeout={int(self.ready_s)}")
                return
            except ProgramError as failed:
                said = file.read_text(errors="replace")[before:] if file.exists() else failed.message
                # While it was down, its port may have gone to somebody's outgoing connection for a moment.
                if "Address already in use" not in said or time.monotonic() > until:
                    tail = " ".join(said.split())[-600:]
                    raise DriverError(
                        f"{node.name} does not start: {tail}", hint="read what its server says."
                    ) from None
            time.sleep(1)

    def _pg_ctl(self, node: Node, *arguments: str) -> None:
        used = _programs(node)
        run([used("pg_ctl"), f"--pgdata={node.data}", *arguments], used.environment(), unprivileged=True)

    def _streams(self, node: Node, source: Node, *, within_s: float = 0) -> None:
        until = time.monotonic() + (within_s or self.ready_s)
        while True:
            found = pair.look({node.name: node.conninfo})[node.name]
            if found.streaming_from and pair.same(found.streaming_from, source.address):
                return
            if time.monotonic() > until:
                raise DriverError(
                    f"{node.name} does not stream from {source.name}{f': {found.said}' if found.said else ''}",
                    hint="its server's log says why.",
                )
            time.sleep(0.1)


def _refuse(node: Node) -> None:
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
    _programs(node)


def _programs(node: Node) -> Programs:
    for one in programs.installed([node.programs]):
        if one.directory == node.programs.resolve() and (one.directory / "pg_rewind").exists():
            return one
    raise DriverError(
        f"{node.name}: {node.programs} has no pg_ctl and pg_rewind",
        hint="name the `bin` directory of its PostgreSQL as `programs` in the connection's extra.",
    )


def _postmaster(node: Node) -> psutil.Process | None:
    """The server of this data directory; None when there is none."""
    try:
        process = psutil.Process(int((node.data / "postmaster.pid").read_text().split()[0]))
        mine = str(node.data) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, IndexError, psutil.Error):
        return None
    return process if mine else None


def _kill(node: Node) -> None:
    """As a machine that loses its power: all its processes at once, and none of them hears of it."""
    process = _postmaster(node)
    if process is None:
        _bury(node)
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
    _bury(node)


def _bury(node: Node) -> None:
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


def _keep_configuration(node: Node) -> None:
    """Copies of the server's own files, complete before anything else of it is touched."""
    if (node.left / "kept").exists():
        return
    node.left.mkdir(mode=0o700, exist_ok=True)
    for name in CONFIGURATION:
        if (node.data / name).exists():
            shutil.copy2(node.data / name, node.left / name)
    (node.left / "kept").touch()


def _configure(node: Node, upstream: str, slot: str) -> None:
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
    # Also where a postgresql.conf names another one, the last word wins.
    (node.data / "standby.signal").touch(mode=0o600)


def _upstream(source: Node) -> str:
    """How a standby reaches the new primary: as that reached the old one."""
    with connect(source.conninfo) as connection:
        row = connection.execute("show primary_conninfo").fetchone()
    assert row is not None
    said: Mapping[str, object] = conninfo_to_dict(row["primary_conninfo"] or source.conninfo)
    host, port = source.address
    kept = {key: value for key, value in said.items() if key in _KEPT}
    return make_conninfo("", **kept, host=host, port=port)  # type: ignore[arg-type]


_KEPT = ("user", "password", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey", "channel_binding", "gssencmode")


def _slot(source: Node, name: str) -> str:
    """The slot that keeps the log for the coming standby."""
    slot = "".join(letter if letter.isalnum() else "_" for letter in name.lower())[:60]
    with connect(source.conninfo) as connection, contextlib.suppress(psycopg.errors.DuplicateObject):
        connection.execute("select pg_create_physical_replication_slot(%s, true)", [slot])
    return slot


def _drop_slots(node: Node) -> None:
    """A standby's slots keep log for those who followed it while it was the primary; nobody does any more."""
    with connect(node.conninfo) as connection:
        for row in connection.execute(
            "select slot_name from pg_replication_slots where slot_type = 'physical' and not active"
        ).fetchall():
            connection.execute("select pg_drop_replication_slot(%s)", [row["slot_name"]])


def _checkpoint(source: Node, until: float) -> None:
    """pg_rewind asks the source's control file for its timeline, and only a checkpoint writes the new one there."""
    with connect(source.conninfo) as connection:
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            connection.execute("set statement_timeout = '5min'")
            connection.execute("checkpoint")
        while not _on_disk(connection):
            if time.monotonic() > until:
                raise DriverError(
                    f"{source.name} made no checkpoint since it was promoted",
                    hint="grant pg_checkpoint to the maintenance role (PostgreSQL 15 and newer).",
                )
            time.sleep(0.2)


def _on_disk(connection: Connection) -> bool:
    row = connection.execute(
        "select timeline_id = ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int as same"
        " from pg_control_checkpoint()"
    ).fetchone()
    return bool(row and row["same"])
