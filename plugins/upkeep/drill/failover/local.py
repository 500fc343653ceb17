"""
A plain streaming pair whose servers run on the worker itself, or below directories that it sees, as its own user.

Killed, promoted, rewound and started by PostgreSQL's own means alone. What is needed afterwards to put a server back is
laid beside its data directory before the first byte is changed, so that whoever comes after a dead worker finds it.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Mapping, Sequence

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from upkeep.backup.programs import ProgramError, run, without_secrets
from upkeep.drill.failover import pair
from upkeep.drill.failover.node import (
    HALF,
    SIGNAL,
    Node,
    configure,
    keep_configuration,
    own_upstream,
    programs_of,
    refuse,
)
from upkeep.drill.failover.pair import DriverError, Pair, Scenario
from upkeep.drill.failover.postmaster import bury, kill, postmaster
from upkeep.postgres.session import Connection, connect

log = logging.getLogger(__name__)

READY_S = 60
DECIDED_S = 5


class LocalDriver:
    """See the module. :raises DriverError: a data directory is not ours to work on."""

    kind = "streaming"

    def __init__(self, nodes: Sequence[Node], *, ready_s: float = READY_S) -> None:
        names = {node.name for node in nodes}
        if len(names) < 2:
            raise DriverError(
                f"{len(names)} server of a pair is named", hint="name the primary and a standby in `nodes`."
            )
        self.nodes = {node.name: node for node in nodes}
        self.ready_s = ready_s
        for node in nodes:
            refuse(node)

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
        kill(node)

    def promote(self, name: str) -> None:
        with connect(self.nodes[name].conninfo) as connection:
            connection.execute("select pg_promote(false)")

    def rejoin(self, name: str, primary: str) -> str:
        node, source = self.nodes[name], self.nodes[primary]
        kill(node)
        half = node.left / HALF
        interrupted = half.exists()
        keep_configuration(node)
        upstream = _upstream(node, source)
        slot = _slot(source, name)
        how = ""
        if not interrupted and (node.data / SIGNAL).exists():
            # It is a standby already: one that was down, follows the old primary, or was rewound before.
            with contextlib.suppress(DriverError):
                self._follow(node, source, upstream, slot)
                how = "starting it again"
        if not how:
            kill(node)
            half.touch()
            rewound = not interrupted and not (node.data / SIGNAL).exists() and self._rewind(node, source)
            how = "pg_rewind" if rewound else self._copy(node, source)
            self._follow(node, source, upstream, slot)
        _drop_slots(node)
        shutil.rmtree(node.left)
        return how

    def _follow(self, node: Node, source: Node, upstream: str, slot: str) -> None:
        """:raises DriverError: it does not start, or does not stream."""
        configure(node, upstream, slot)
        (node.left / HALF).unlink(missing_ok=True)
        self._start(node)
        self._streams(node, source)

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
            if was_primary not in self.nodes:
                raise DriverError(
                    f"no server is primary, and {was_primary}, which was, is not among {', '.join(self.nodes)}",
                    hint="name it in the connection's extra again.",
                )
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
                    if node.left.exists():
                        _drop_slots(node)
                        shutil.rmtree(node.left)
                    continue
            done.append(f"{name} made a standby by {self.rejoin(name, primary)}")
        return done

    # -- how -----------------------------------------------------------------------------------------------

    def _decided(self) -> Pair:
        """A server that runs answers in the end, and a standby that was told to become the primary does so, or not."""
        began = time.monotonic()
        while True:
            found, waited = self.look(), time.monotonic() - began
            silent = [one.name for one in found.servers if not one.up and postmaster(self.nodes[one.name])]
            if (found.primaries or waited > DECIDED_S) and (not silent or waited > self.ready_s):
                return found
            time.sleep(0.2)

    def _rewind(self, node: Node, source: Node) -> bool:
        """Whether it could be done."""
        used = programs_of(node)
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
            return False
        return True

    def _copy(self, node: Node, source: Node) -> str:
        """A fresh base backup in the place of what is there."""
        used = programs_of(node)
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
        bury(node)
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
        used = programs_of(node)
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


def _upstream(node: Node, source: Node) -> str:
    """How a standby reaches the new primary: as it reached another before, else as that one reached the old."""
    with connect(source.conninfo) as connection:
        row = connection.execute("show primary_conninfo").fetchone()
    assert row is not None
    said: Mapping[str, object] = conninfo_to_dict(own_upstream(node) or row["primary_conninfo"] or source.conninfo)
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
