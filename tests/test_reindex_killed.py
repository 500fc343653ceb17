"""Whatever is killed, and when: the next run leaves no invalid index, builds nothing twice and closes the ledger."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import psycopg
import pytest

from sandbox import processes
from sandbox.home import REPOSITORY
from tests.conftest import run
from tests.reindex_server import ReindexServer, bloated
from upkeep.ledger import Ledger
from upkeep.postgres.reindex import leftovers, wording, work
from upkeep.postgres.session import connect

SERVER = ReindexServer


@pytest.fixture
def server(seventeen: ReindexServer) -> ReindexServer:
    return seventeen


NOTE = "bookings_note"


class Worker:
    """``tests.reindex_worker``, stopped where it is told to."""

    def __init__(self, server: ReindexServer, ledger_conninfo: str, stop_at: str = "") -> None:
        argv = [sys.executable, "-m", "tests.reindex_worker", server.conninfo, server.upkeep_owner, ledger_conninfo]
        self.process = subprocess.Popen(
            [*argv, stop_at],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY / "plugins")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.server = server

    def reaches(self, step: str) -> None:
        assert self.process.stdout
        assert self.process.stdout.readline().strip() == step

    def goes_on(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def killed(self) -> None:
        """… and the server has noticed."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=10)
        sessions = "select count(*) from pg_stat_activity where usename in ('upkeep', 'upkeep_owner')"
        processes.wait_until(lambda: self.server.superuser(sessions)[0][0] == 0, 10, "the server to notice")


def run_again(server: ReindexServer, ledger: Ledger, ledger_conninfo: str) -> None:
    """One more run: nothing is left, nothing is open, and there is nothing to do any more."""
    again = Worker(server, ledger_conninfo)
    assert again.process.communicate(timeout=60)[0].strip() == "done"
    assert again.process.returncode == 0
    assert all(valid for _, valid in server.indexes().values())
    assert not [name for name in server.indexes() if "_cc" in name]
    assert server.choose().candidates == ()
    assert ledger.rows("select object from actions where state = 'open'") == []


READS = ["select count(*) from bookings"]
WRITES = ["insert into bookings values (-1, '')"]
SNAPSHOT = ["set transaction isolation level repeatable read", "select count(*) from other"]

STEPS = {
    "before anything": ("go", [], "", set()),
    "before the build": ("preflight", WRITES, "waiting for writers before build", {"bookings_note_ccnew"}),
    "after the build": ("preflight", SNAPSHOT, "waiting for old snapshots", {"bookings_note_ccnew"}),
    "after the swap": ("preflight", READS, "waiting for readers before marking dead", {"bookings_note_ccold"}),
    "before it is remembered": ("rebuilt", [], "", set()),
}


# What is killed after the build is what `leftover_of` begins with as well.
SOAK = ("before anything", "before the build", "after the build")


@pytest.mark.parametrize("when", [pytest.param(one, marks=[pytest.mark.soak] if one in SOAK else []) for one in STEPS])
def test_a_rebuild_that_is_killed(server: ReindexServer, ledger: Ledger, ledger_conninfo: str, when: str) -> None:
    step, holder, phase, left = STEPS[when]
    bloated(server, "bookings")
    server("create table other as select 1 as id")
    before, small = server.indexes(), server.bytes(NOTE) / 2
    worker = Worker(server, ledger_conninfo, step)
    worker.reaches(step)
    with ExitStack() as open_now:
        if holder:
            open_now.enter_context(server.session(*holder))
            worker.goes_on()
            at = "select phase from pg_stat_progress_create_index"
            processes.wait_until(lambda: server.superuser(at) == [(phase,)], 20, phase)
        assert ledger.rows("select verb, object from actions where state = 'open'") == [
            {"verb": "reindex", "object": f"public.{NOTE}"}
        ]
        worker.killed()
    indexes = server.indexes()
    assert set(indexes) == {*before, *left}
    swapped = indexes[NOTE][0] != before[NOTE][0]
    assert swapped == (when in ("after the swap", "before it is remembered"))

    run_again(server, ledger, ledger_conninfo)
    assert server.bytes(NOTE) < small
    assert (server.indexes()[NOTE][0] == indexes[NOTE][0]) == swapped, "what was swapped is not built again"
    states = ledger.rows("select verb, state from actions where object in (%s, %s) order by id", [
        f"public.{NOTE}", f"public.{next(iter(left), '')}"
    ])  # fmt: skip
    expected = [("reindex", "abandoned")]
    expected += [("drop_leftover", "done")] if left else []
    expected += [] if swapped else [("reindex", "done")]
    assert [(row["verb"], row["state"]) for row in states] == expected


def leftover_of(server: ReindexServer, ledger_conninfo: str) -> None:
    """``bookings_note_ccnew``, from a worker that was killed."""
    worker = Worker(server, ledger_conninfo, "preflight")
    worker.reaches("preflight")
    with server.session(*SNAPSHOT):
        worker.goes_on()
        at = "select count(*) from pg_stat_progress_create_index where phase = 'waiting for old snapshots'"
        processes.wait_until(lambda: server.superuser(at)[0][0] == 1, 20, "the build to be over")
        worker.killed()
    assert "bookings_note_ccnew" in server.indexes()


def test_a_drop_that_is_killed(server: ReindexServer, ledger: Ledger, ledger_conninfo: str) -> None:
    bloated(server, "bookings")
    server("create table other as select 1 as id")
    leftover_of(server, ledger_conninfo)
    worker = Worker(server, ledger_conninfo, "drop")
    worker.reaches("drop")
    with server.session(*READS):
        worker.goes_on()
        drops = "select count(*) from pg_stat_activity where query like 'drop index%' and wait_event_type = 'Lock'"
        processes.wait_until(lambda: server.superuser(drops)[0][0] == 1, 20, "the drop to wait")
        assert ledger.rows("select verb, object from actions where state = 'open'") == [
            {"verb": "drop_leftover", "object": "public.bookings_note_ccnew"}
        ]
        worker.killed()
    assert "bookings_note_ccnew" in server.indexes()
    run_again(server, ledger, ledger_conninfo)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 10))])
def test_killed_at_any_time(server: ReindexServer, ledger: Ledger, ledger_conninfo: str, seed: int) -> None:
    for name in ("bookings", "users", "seats"):
        bloated(server, name, 40_000)
    delay_s = random.Random(seed).uniform(0, 0.15)
    worker = Worker(server, ledger_conninfo)
    opened = "select object from actions where state = 'open'"
    processes.wait_until(lambda: bool(ledger.rows(opened)), 20, "the first rebuild")
    time.sleep(delay_s)

    def caught() -> bool:
        """Between two rebuilds none is open: held still, one sees which it is."""
        worker.process.send_signal(signal.SIGSTOP)
        time.sleep(0.05)
        if ledger.rows(opened):
            return True
        worker.process.send_signal(signal.SIGCONT)
        return False

    processes.wait_until(caught, 20, "a rebuild")
    worker.killed()
    assert len(ledger.rows(opened)) == 1, "killed while a step was open"
    run_again(server, ledger, ledger_conninfo)


# -- leftovers -----------------------------------------------------------------------------------------


def test_only_what_certainly_is_a_leftover_and_nobody_works_on_is_dropped(
    server: ReindexServer, ledger: Ledger, ledger_conninfo: str
) -> None:
    long = "bookings_by_the_note_that_somebody_left_at_the_desk_on_some_day"
    assert len(long) == 63
    server("create table bookings as select i as id, md5(i::text) as note from generate_series(1, 2000) as i")
    server("create index bookings_note on bookings (note)")
    server(f"create index {long} on bookings (note)")
    for name in ("bookings_note_ccnew", "bookings_note_ccold1", f"{long[:57]}_ccnew", "gone_ccnew", "mine"):
        server(f"create index {name} on bookings (note)")
        server.superuser(f"update pg_index set indisvalid = false where indexrelid = '{name}'::regclass")
    server("create index bookings_id_ccnew on bookings (id)")
    with connect(server.upkeep_owner) as connection:
        found = {one.name: one for one in leftovers.find(connection)}
    assert {name: (one.kind, one.of_index) for name, one in found.items()} == {
        "bookings_note_ccnew": ("ccnew", "bookings_note"),
        "bookings_note_ccold1": ("ccold", "bookings_note"),
        f"{long[:57]}_ccnew": ("ccnew", long),
        "gone_ccnew": ("ccnew", None),
    }
    said = work.drop_leftovers(ledger, run(task="leftovers"), server.upkeep_owner)
    assert {one.name: result["state"] for one, result in said} == {
        name: "unknown" if name == "gone_ccnew" else "done" for name in found
    }
    assert set(server.indexes()) == {"bookings_note", long, "gone_ccnew", "mine", "bookings_id_ccnew"}
    outcome = wording.left_behind(said)
    assert [finding.object for finding in outcome.findings] == ["public.gone_ccnew"]
    assert outcome.facts["dropped"] == 3
    assert leftovers.drop(server.upkeep_owner, found["bookings_note_ccnew"].as_dict())["state"] == "gone"


def test_a_live_builder_is_left_alone(server: ReindexServer, ledger: Ledger, ledger_conninfo: str) -> None:
    bloated(server, "bookings")
    server("create table other as select 1 as id")
    worker = Worker(server, ledger_conninfo, "preflight")
    worker.reaches("preflight")
    with server.session(*SNAPSHOT):
        worker.goes_on()
        building = "select count(*) from pg_index where not indisvalid"
        processes.wait_until(lambda: server(building)[0][0] == 1, 20, "the build")
        assert work.drop_leftovers(ledger, run(task="leftovers"), server.upkeep_owner, dry_run=True) == []
        with psycopg.connect(server.owner, autocommit=True) as connection:
            assert connection.execute(building).fetchone() == (1,)
    assert worker.process.communicate("\n\n", timeout=30)[0].strip().endswith("done")
    assert set(server.indexes()) == {"bookings_pkey", NOTE}
