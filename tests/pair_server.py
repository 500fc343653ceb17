"""A streaming pair that a test may kill: two servers of its own, and writers beside it; nothing of them afterwards."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from sandbox import processes
from sandbox.home import REPOSITORY, Home
from sandbox.servers import postgres as servers
from tests.postgres_server import DATABASE
from upkeep.drill.failover import pair
from upkeep.drill.failover.local import LocalDriver
from upkeep.drill.failover.node import Node

FIRST, SECOND = "postgres.one", "postgres.two"


class PairServer:
    """Primary ``one`` and standby ``two`` at first; who is what afterwards, the drills decide."""

    def __init__(self, home: Home, version: int, **settings: str | int | bool) -> None:
        self.home, self.version = home, version
        for name in (FIRST, SECOND):
            # Below those that the system gives to outgoing connections: they are free again after a failover.
            with home.change() as state:
                state.setdefault("ports", {})[name] = _free_port(set(state.get("ports", {}).values()))
        servers.start_cluster(home, FIRST, version, settings={"autovacuum": False, **settings})
        servers.prepare_platform(home, FIRST, DATABASE)
        with servers.superuser(home, FIRST, DATABASE) as connection:
            connection.execute("select set_config('upkeep.tables_owner', 'app_owner', false)")
            connection.execute("select set_config('upkeep.drills', 'on', false)")
            connection.execute((REPOSITORY / "include" / "sql" / "postgres" / "roles.sql").read_bytes())
        servers.start_standby(home, FIRST, SECOND)
        self.nodes = [self._node(name) for name in (FIRST, SECOND)]
        with psycopg.connect(self.application(), autocommit=True) as connection:
            connection.execute("create table writes (writer int, number int, primary key (writer, number))")

    def _node(self, name: str) -> Node:
        facts = self.home.facts(name)
        # A standby has the primary's roles, and their passwords.
        conninfo = make_conninfo(servers.dsn(self.home, FIRST, "upkeep", DATABASE), port=facts["port"])
        return Node(name.rpartition(".")[2], conninfo, Path(facts["data"]), Path(facts["bin"]))

    def driver(self) -> LocalDriver:
        return LocalDriver(self.nodes)

    def application(self) -> str:
        """As the application's owner, to whoever is the primary."""
        every = pair.every([node.conninfo for node in self.nodes])
        owner = servers.dsn(self.home, FIRST, "app_owner", DATABASE)
        parts = psycopg.conninfo.conninfo_to_dict(owner)
        return make_conninfo(
            every, user=parts["user"], password=parts["password"], target_session_attrs="read-write", connect_timeout=2
        )

    def __call__(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.application(), autocommit=True) as connection:
            done = connection.execute(statement)  # type: ignore[call-overload]
            return done.fetchall() if done.description else []

    def superuser(self, statement: str, name: str = "") -> list[tuple[Any, ...]]:
        """On the primary, or on one of the two by name."""
        port = psycopg.conninfo.conninfo_to_dict(
            next(one.conninfo for one in self.nodes if one.name == (name or self.driver().look().primary.name))
        )["port"]
        target = make_conninfo(self.home.facts(FIRST)["superuser_dsn"], port=port, dbname=DATABASE)
        with psycopg.connect(target, autocommit=True) as connection:
            done = connection.execute(statement)  # type: ignore[call-overload]
            return done.fetchall() if done.description else []

    def processes(self) -> list[psutil.Process]:
        """Postmasters of these data directories, and their children."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if any(str(node.data) in part for node in self.nodes for part in line):
                found += [process, *process.children(recursive=True)]
        return found

    def left(self) -> dict[str, Any]:
        """What a drill could leave behind: all of it is the same before and after."""
        place = self.nodes[0].data.parent.parent
        return {
            "directories": sorted(
                str(path.relative_to(place)) for node in self.nodes for path in node.data.parent.iterdir()
                if path.suffix != ".log"
            ),
            "postmasters": sum(bool(one.cmdline()) and str(node.data) in one.cmdline()
                               for node in self.nodes for one in self.processes() if one.is_running()),
            "slots": len(self.superuser("select slot_name from pg_replication_slots")),
            "standby's slots": len(
                self.superuser("select slot_name from pg_replication_slots", self.driver().look().standbys[0].name)
            ),
            "databases": self.superuser("select datname from pg_database order by 1"),
            "rows": self.superuser("select count(*) from upkeep.drill_canary"),
            "whole": self.driver().ill(),
        }  # fmt: skip

    def stop(self) -> None:
        for process in self.processes():
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _free_port(taken: set[int]) -> int:
    while True:
        port = random.randrange(20_000, 31_000)
        if port not in taken and not processes.listening(port):
            return port


@contextmanager
def running_pair(version: int = 17, **settings: str | int | bool) -> Iterator[PairServer]:
    home = Home(Path(tempfile.mkdtemp(prefix="pair-", dir="/tmp")))
    made = None
    try:
        made = PairServer(home, version, **settings)
        yield made
    finally:
        if made:
            made.stop()
        from sandbox import __main__ as sandbox

        sandbox.down(home)
        shutil.rmtree(home.path, ignore_errors=True)


@dataclass
class Writer:
    """The application: writes one row after the other, and notes when each was acknowledged."""

    conninfo: str
    number: int
    acknowledged: list[tuple[int, float]] = field(default_factory=list)
    """Row and monotonic time."""

    stopping: threading.Event = field(default_factory=threading.Event)
    warned: list[str] = field(default_factory=list)

    def run(self) -> None:
        row, connection = 0, None
        while not self.stopping.is_set():
            row += 1
            try:
                if connection is None or connection.closed:
                    connection = psycopg.connect(self.conninfo, autocommit=True)
                    connection.add_notice_handler(lambda told: self.warned.append(str(told.message_primary)))
                self.warned.clear()
                connection.execute("insert into writes values (%s, %s)", [self.number, row])
                if not self.warned:
                    self.acknowledged.append((row, time.monotonic()))
            except psycopg.Error:
                if connection is not None:
                    connection.close()
            time.sleep(0.02)
        if connection is not None:
            connection.close()

    def gap(self) -> float:
        """The longest time in which nothing was acknowledged."""
        times = [at for _, at in self.acknowledged]
        return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0)

    def lost(self, there: set[int]) -> list[int]:
        return [row for row, _ in self.acknowledged if row not in there]


@contextmanager
def writers(server: PairServer, count: int = 3) -> Iterator[list[Writer]]:
    server("truncate writes")
    made = [Writer(server.application(), number) for number in range(count)]
    threads = [threading.Thread(target=one.run, daemon=True) for one in made]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        for one in made:
            one.stopping.set()
        for thread in threads:
            thread.join(20)
