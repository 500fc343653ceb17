"""VACUUM killed in the middle, and run again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from sandbox import processes
from sandbox.home import REPOSITORY
from tests.postgres_server import PostgresServer, table
from upkeep.ledger import Ledger
from upkeep.platforms.services import Vacuum

VACUUM = Vacuum()


CARES = """
import signal, sys
from upkeep.ledger import Ledger, Run
from upkeep.platforms.services import Vacuum
from upkeep.postgres import vacuum
conninfo, ledger_conninfo, slow = sys.argv[1:]

def told_to_end(*_):
    raise SystemExit("told to end")

signal.signal(signal.SIGTERM, told_to_end)
settings = Vacuum(cost_limit=1, cost_delay="100ms") if slow == "slow" else Vacuum()
run = Run(platform="studyspot", dag_id="d", run_id="r", task_id="vacuum")
with Ledger(ledger_conninfo) as ledger:
    with ledger.action(run, "postgres", "vacuum", "public.bookings") as action:
        action.after = vacuum.care(conninfo, "public", "bookings", settings)
print(action.after["state"])
"""


def start_caring(server: PostgresServer, ledger_conninfo: str, speed: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CARES, server.conninfo, ledger_conninfo, speed],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "plugins")},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_killed_in_the_middle_of_a_vacuum_the_server_ends_it_and_the_next_run_does_it(
    seventeen: PostgresServer, ledger: Ledger, ledger_conninfo: str, sig: signal.Signals
) -> None:
    table(seventeen, "bookings", rows=50_000, dead=40_000)
    at_work = "select count(*) from pg_stat_progress_vacuum"
    process = start_caring(seventeen, ledger_conninfo, "slow")
    processes.wait_until(lambda: seventeen(at_work)[0][0] == 1, 20, "VACUUM to be at work")
    assert [row["state"] for row in ledger.rows("select state from actions")] == ["open"], (
        "killed while a step was open"
    )
    process.send_signal(sig)
    process.wait(timeout=10)
    processes.wait_until(lambda: seventeen(at_work)[0][0] == 0, 5, "the server to notice")
    again = start_caring(seventeen, ledger_conninfo, "fast")
    said, _ = again.communicate(timeout=60)
    assert said.strip() == "done"
    states = [row["state"] for row in ledger.rows("select state from actions order by id")]
    assert states == (["abandoned", "done"] if sig == signal.SIGKILL else ["failed", "done"])
    assert seventeen.needs() == {}
    assert seventeen("select count(*) from bookings") == [(50_000,)]
