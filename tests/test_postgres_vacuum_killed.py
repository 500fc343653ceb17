"""VACUUM killed at each step that the ledger records, and at seeded times; then run again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from sandbox import processes
from sandbox.home import REPOSITORY
from tests.postgres_server import PostgresServer, table
from upkeep.ledger import Ledger

CARES = """
import signal, sys, time
from upkeep.ledger import Ledger, Run
from upkeep.platforms.conduct import Brake
from upkeep.platforms.services import Vacuum
from upkeep.postgres.brake import hold
from upkeep.postgres.vacuum import care, unbraked
conninfo, ledger_conninfo, where, pace = sys.argv[1:]

def told_to_end(*_):
    raise SystemExit("told to end")

def held(connection):
    print("waits", flush=True)
    return hold(connection, Brake(first_wait="10m"), ends=None, flag=lambda: "a test")

signal.signal(signal.SIGTERM, told_to_end)
run = Run(platform="studyspot", dag_id="d", run_id="r", task_id="vacuum")
with Ledger(ledger_conninfo) as ledger:
    with ledger.action(run, "postgres", "vacuum", "public.bookings") as action:
        print("open", flush=True)
        settings = Vacuum(cost_limit=int(pace), cost_delay="10ms")
        action.after = care(conninfo, "public", "bookings", settings, brake=held if where == "brake" else unbraked)
        if where == "record":
            print("vacuumed", flush=True)
            time.sleep(600)
print(action.after["state"])
"""

AT_WORK = "select count(*) from pg_stat_progress_vacuum"
SESSIONS = "select count(*) from pg_stat_activity where usename = 'upkeep'"


def start_caring(
    server: PostgresServer, ledger_conninfo: str, *, where: str = "", pace: int = 10_000
) -> subprocess.Popen[str]:
    """
    :param where: ``brake`` waits there; ``record`` waits after VACUUM, before its end is recorded.
    :param pace: cost units per 10 ms: 1 takes minutes, 4 some seconds.
    """
    return subprocess.Popen(
        [sys.executable, "-c", CARES, server.conninfo, ledger_conninfo, where, str(pace)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "plugins")},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def says(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    while said := process.stdout.readline():
        if said.strip() == line:
            return
    raise AssertionError(f"it ended without saying {line!r}")


def kill(server: PostgresServer, ledger: Ledger, process: subprocess.Popen[str], how: signal.Signals) -> None:
    """While the step is open; the server then ends by itself what the process left running."""
    states = [row["state"] for row in ledger.rows("select state from actions where ended_at is null")]
    assert states == ["open"], "killed while a step was open"
    process.send_signal(how)
    process.wait(timeout=10)
    processes.wait_until(lambda: server(AT_WORK) == [(0,)] == server.superuser(SESSIONS), 10, "the server to notice")


def run_again(server: PostgresServer, ledger: Ledger, ledger_conninfo: str) -> tuple[str, list[str]]:
    """What the next run says, and the states of all actions; the end state is right."""
    said, _ = start_caring(server, ledger_conninfo).communicate(timeout=60)
    assert server.needs() == {}
    assert server("select count(*), count(*) filter (where note = 'changed') from bookings") == [(50_000, 40_000)]
    dead = "select n_dead_tup from pg_stat_user_tables where relname = 'bookings'"
    assert server(dead) == [(0,)]
    states = [row["state"] for row in ledger.rows("select state from actions order by id")]
    return said.split()[-1], states


def test_killed_while_it_waits_at_the_brake(seventeen: PostgresServer, ledger: Ledger, ledger_conninfo: str) -> None:
    table(seventeen, "bookings", rows=50_000, dead=40_000)
    process = start_caring(seventeen, ledger_conninfo, where="brake")
    says(process, "waits")
    kill(seventeen, ledger, process, signal.SIGKILL)
    assert run_again(seventeen, ledger, ledger_conninfo) == ("done", ["abandoned", "done"])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_killed_in_the_middle_of_vacuum(
    seventeen: PostgresServer, ledger: Ledger, ledger_conninfo: str, how: signal.Signals
) -> None:
    table(seventeen, "bookings", rows=50_000, dead=40_000)
    process = start_caring(seventeen, ledger_conninfo, pace=1)
    processes.wait_until(lambda: seventeen(AT_WORK)[0][0] == 1, 20, "VACUUM to be at work")
    kill(seventeen, ledger, process, how)
    first = "abandoned" if how == signal.SIGKILL else "failed"
    assert run_again(seventeen, ledger, ledger_conninfo) == ("done", [first, "done"])


def test_killed_between_the_deed_and_its_record(
    seventeen: PostgresServer, ledger: Ledger, ledger_conninfo: str
) -> None:
    table(seventeen, "bookings", rows=50_000, dead=40_000)
    process = start_caring(seventeen, ledger_conninfo, where="record")
    says(process, "vacuumed")
    kill(seventeen, ledger, process, signal.SIGKILL)
    said, states = run_again(seventeen, ledger, ledger_conninfo)
    assert (said, states) == ("needed", ["abandoned", "done"]), "not needed, and so not done twice"
    assert seventeen("select vacuum_count from pg_stat_user_tables where relname = 'bookings'") == [(2,)]


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_any_time(seventeen: PostgresServer, ledger: Ledger, ledger_conninfo: str, seed: int) -> None:
    table(seventeen, "bookings", rows=50_000, dead=40_000)
    # About five seconds of work.
    process = start_caring(seventeen, ledger_conninfo, pace=4)
    says(process, "open")
    time.sleep(random.Random(seed).uniform(0, 2.5))
    kill(seventeen, ledger, process, signal.SIGKILL)
    said, states = run_again(seventeen, ledger, ledger_conninfo)
    assert said in ("done", "needed")
    assert states == ["abandoned", "done"]
