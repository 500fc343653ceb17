"""Killed at each step: the living database is whole and has its name, and the next try succeeds."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from sandbox import processes
from sandbox.home import REPOSITORY, Home
from sandbox.servers import postgres as servers
from sandbox.servers import s3
from tests.conftest import fresh_ledger
from tests.postgres_server import DATABASE
from tests.restore_server import RestoreServer, emptied
from upkeep.backup.restore import record
from upkeep.ledger import Ledger

SERVER = RestoreServer

WORKS = """
import json, os, signal, sys
from pathlib import Path
import boto3
from botocore.config import Config
from tests.dying import die_at
from upkeep.backup import restoring, store
from upkeep.backup.restore import choose, form, job, load, places, record, replay, swap, target
from upkeep.ledger import Ledger, Run
from upkeep.platforms.backup import Restoring
from upkeep.postgres import session

said = json.loads(sys.argv[1])
store.CHUNK = 4096

def half_loaded():
    original = load._feed
    def feed(programs, conninfo, chosen, pieces):
        def some():
            for number, piece in enumerate(pieces):
                if number == 10:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield piece
        original(programs, conninfo, chosen, some())
    load._feed = feed

STEPS = {
    "read, and nothing made": lambda: die_at(target, "make"),
    "made and not marked": lambda: die_at(target, "_created"),
    "half loaded": half_loaded,
    "loaded and not analyzed": lambda: die_at(load, "analyze"),
    "compared and not asked": lambda: die_at(restoring, "ask"),
    "erased again and not committed": lambda: die_at(replay, "_one", after=True),
    "erased again and not on record": lambda: die_at(replay, "replay", after=True),
    "about to rename": lambda: die_at(swap, "_rename"),
    "between the renames": lambda: die_at(swap, "_between"),
    "renamed and not on record": lambda: die_at(swap, "_until", after=True),
    "dropped and not on record": lambda: die_at(target, "drop", after=True),
}
if said["dies"]:
    STEPS[said["dies"]]()
connection = said["s3"]
client = boto3.client("s3", aws_access_key_id=connection["login"], aws_secret_access_key=connection["password"],
    endpoint_url=connection["extra"]["endpoint_url"], region_name="us-east-1",
    config=Config(**connection["extra"]["config_kwargs"]))
run = Run(platform="studyspot", dag_id="restore", run_id="r", task_id="t")
with Ledger(said["ledger"]) as ledger:
    work = job.Job(run=run, ledger=ledger, store=store.Store(client, "studyspot-backups"), prefix=said["prefix"],
        owner=said["owner"], maintenance=said["maintenance"], rules=Restoring(wait="10ms", within="30s"),
        directories=[Path(said["programs"])], free=lambda: 1e12)
    asked = form.Asked("studyspot", place="replace")
    chosen = choose.choose(ledger, work.store, work.prefix, asked)
    restore = record.begin(ledger, run, asked, chosen.manifest.id, "studyspot", "mira")
    if restore.state in ("chosen", "loading"):
        restore = job.bring(work, restore)
    if restore.state == "loaded":
        restore = job.prove(work, restore)
    if restore.state == "proved":
        restore = job.erase(work, restore)
    if said["dies"].startswith("dropped"):
        places.remove(work, restore)
    restore, done = places.put_in_place(work, restore)
    print(json.dumps({"id": restore.id, "already": done.already}))
"""

STEPS = (
    "read, and nothing made", "made and not marked", "half loaded", "loaded and not analyzed",
    "compared and not asked", "erased again and not committed", "erased again and not on record", "about to rename",
    "between the renames", "renamed and not on record",
)  # fmt: skip
FEW = ("erased again and not on record", "between the renames")


class Worker:
    def __init__(self, server: RestoreServer, ledger: Ledger, ledger_conninfo: str) -> None:
        self.ledger = ledger
        self.said = {
            "owner": server.deleter, "maintenance": server.conninfo, "s3": s3.connection_to(server.home),
            "ledger": ledger_conninfo, "prefix": server.prefix, "programs": str(server.directories[0]),
        }  # fmt: skip

    def __call__(self, dies: str = "") -> Any:
        """What the worker printed, or the state of its action when it was killed."""
        done = subprocess.run(
            [sys.executable, "-c", WORKS, json.dumps({**self.said, "dies": dies})],
            cwd=REPOSITORY,
            env={"PYTHONPATH": ".:plugins", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )
        if not dies:
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)
        assert done.returncode == -signal.SIGKILL, done.stderr
        return self.ledger.rows("select state from actions order by id desc limit 1")[0]["state"]


@pytest.fixture(scope="module")
def kept(control: Home) -> Iterator[dict[str, Any]]:
    with fresh_ledger(control) as made:
        yield made


@pytest.fixture
def ledger_conninfo(kept: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """One ledger for this file, emptied for each test."""
    return emptied(kept, monkeypatch)


@pytest.fixture
def server(each: Callable[..., Any], ledger: Ledger) -> RestoreServer:
    server: RestoreServer = each(17, RestoreServer).fresh()
    server("create table visits (id int primary key, at date)")
    server("insert into visits select i, date '1970-01-01' + i from generate_series(1, 1000) as i")
    server.backed_up(ledger)
    server("delete from bookings where id <= 4000")
    server.erase(ledger, "visits", "at", "1971-01-01")
    return server


@pytest.fixture
def worker(server: RestoreServer, ledger: Ledger, ledger_conninfo: str) -> Worker:
    return Worker(server, ledger, ledger_conninfo)


def soak(step: str) -> Any:
    return step if step in FEW else pytest.param(step, marks=pytest.mark.soak)


@pytest.mark.parametrize("step", [soak(step) for step in STEPS])
def test_killed_at_any_step_the_living_database_stands_and_the_next_try_succeeds(
    server: RestoreServer, worker: Worker, step: str
) -> None:
    before = server.databases()
    assert worker(step) == "open"
    processes.wait_until(lambda: alone(server), 15, "the sessions of the dead worker to end")
    swapped = step == "renamed and not on record"
    databases = server.databases()
    assert (databases[DATABASE] == before[DATABASE]) is not swapped
    assert server.ask(DATABASE, "select count(*) from bookings") == [(5000 if swapped else 1000,)]
    assert set(databases) - {DATABASE} or step.startswith("read")

    told = worker()
    restore = record.find(worker.ledger, "studyspot", told["id"])
    assert told["already"] is swapped
    assert restore.state == "swapped"
    assert server.databases() == {DATABASE: restore.made_oid, restore.before: before[DATABASE]}
    assert server.ask(DATABASE, "select count(*) from bookings") == [(5000,)]
    assert server.ask(DATABASE, "select count(*), min(at)::text from visits") == [(636, "1971-01-01")]
    assert restore.facts["erased"].startswith("364 rows were erased again, of 364")
    states = {row["state"] for row in worker.ledger.rows("select state from actions")}
    assert states == {"done", "abandoned"}


@pytest.mark.soak
def test_killed_while_it_removes_the_new_database_it_is_removed(server: RestoreServer, worker: Worker) -> None:
    before = server.databases()
    assert worker("dropped and not on record") == "open"
    assert server.databases() == before


def alone(server: RestoreServer) -> bool:
    with servers.superuser(server.home, server.name) as connection:
        row = connection.execute(
            "select count(*) from pg_stat_activity where usename in ('upkeep', 'upkeep_owner')"
        ).fetchone()
    return row == (0,)


@pytest.mark.soak
def test_nobody_finds_the_platform_without_its_database(server: RestoreServer, worker: Worker) -> None:
    """Who connects all the while is let in, waits, or is told once that the name is being changed; never for long."""
    import threading
    import time

    over, refused, longest = threading.Event(), [0.0], [0.0]

    def knock() -> None:
        while not over.is_set():
            began = time.monotonic()
            try:
                psycopg.connect(server.owner, connect_timeout=20).close()
                refused[0] = 0.0
            except psycopg.OperationalError:
                refused[0] = refused[0] or began
            longest[0] = max(longest[0], time.monotonic() - (refused[0] or began))

    thread = threading.Thread(target=knock)
    thread.start()
    try:
        worker()
    finally:
        over.set()
        thread.join()
    assert longest[0] < 5
