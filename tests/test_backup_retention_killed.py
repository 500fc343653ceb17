"""Killed between any two steps and run again: what is half deleted counts as no backup, and is finished."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from sandbox.home import REPOSITORY, Home
from sandbox.servers import s3
from tests.backup_bucket import DAY, Bucket
from upkeep.backup.manifest import committed
from upkeep.ledger import Ledger

WORKS = """
import json, os, signal, sys, time, traceback
from datetime import UTC, datetime, timedelta
import boto3
from botocore.config import Config
from tests.dying import die_at
from upkeep.backup import records
from upkeep.backup.retention import work
from upkeep.backup.retention.choose import NO_GENERATIONS, Rules
from upkeep.backup.retention.known import Place
from upkeep.backup.store import Store
from upkeep.ledger import Ledger, Run

STEPS = {
    "plan stored and nothing begun": lambda: die_at(work, "_steps"),
    "unmarking and not unmarked": lambda: die_at(records, "unmark"),
    "unmarked and not told": lambda: die_at(records, "unmark", after=True),
    "marking and not marked": lambda: die_at(records, "mark"),
    "marked and not told": lambda: die_at(records, "mark", after=True),
    "deleting and nothing gone": lambda: die_at(work, "delete"),
    "the manifest gone": lambda: die_at(Store, "delete", after=True),
    "half of the data gone": lambda: die_at(Store, "delete", after=True, count=2),
    "all gone and not on record": lambda: die_at(records, "deleted"),
    "on record and not told": lambda: die_at(records, "deleted", after=True),
    "between two backups": lambda: die_at(work, "_delete", count=2),
}
def work_once(said):
    if said["dies"]:
        STEPS[said["dies"]]()
    if said["slow"]:
        original = Store.delete
        Store.delete = lambda *arguments: (time.sleep(0.02), original(*arguments))[1]
    connection = said["s3"]
    client = boto3.client("s3", aws_access_key_id=connection["login"], aws_secret_access_key=connection["password"],
        endpoint_url=connection["extra"]["endpoint_url"], region_name="us-east-1",
        config=Config(**connection["extra"]["config_kwargs"]))
    rules = Rules(keep=timedelta(days=30), keep_verified=2, generations=NO_GENERATIONS,
        deleted_after=timedelta(days=1), most_share=0.9, fresh=timedelta(hours=36))
    with Ledger(said["ledger"]) as ledger:
        work.carry_out(work.Job(
            run=Run(platform="studyspot", dag_id="d", run_id="r", task_id="retention"), ledger=ledger, rules=rules,
            place=Place("studyspot", "database", Store(client, "studyspot-backups"), said["prefix"])))

# Importing takes longer than the work: each line is done by a process of its own, which may be killed.
for line in sys.stdin:
    said = json.loads(line)
    child = os.fork()
    if not child:
        try:
            work_once(said)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if said["kill_after"] is not None:
        time.sleep(said["kill_after"])
        os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Case:
    """Three young backups, two to be marked, two marked long ago, and one marked that is pinned since."""

    def __init__(self, home: Home, ledger: Ledger, conninfo: str, worker: subprocess.Popen[str]) -> None:
        self.worker = worker
        self.bucket = bucket = Bucket(home, ledger, f"{uuid4().hex}/")
        self.young = [bucket.make(n * DAY) for n in (0.1, 1, 2)]
        self.old = [bucket.make(n * DAY) for n in (31, 32)]
        self.marked = [bucket.make(n * DAY) for n in (33, 34)]
        self.pinned = bucket.make(35 * DAY)
        for id in (*self.marked, self.pinned):
            row = bucket.row(id)
            bucket.found(id, marked_at=row["recorded_at"] - 2 * DAY)
        bucket.found(self.pinned, pinned_until=row["recorded_at"] + 9 * DAY, pinned_because="audit")
        self.said = {
            "s3": s3.connection_to(home),
            "ledger": conninfo,
            "prefix": bucket.prefix,
            "dies": "",
            "slow": False,
            "kill_after": None,
        }

    def run(self, **said: Any) -> int:
        """One run of retention, in a process of its own; its exit status."""
        assert self.worker.stdin is not None
        assert self.worker.stdout is not None
        self.worker.stdin.write(json.dumps({**self.said, **said}) + "\n")
        self.worker.stdin.flush()
        status = int(self.worker.stdout.readline())
        assert status in (0, -signal.SIGKILL)
        return status

    def open(self) -> list[str]:
        rows = self.bucket.ledger.rows("select verb, object from actions where state = 'open'")
        return [row["verb"] for row in rows]

    def holds(self) -> None:
        """At any time: what counts as a backup is whole, and what must stay is there."""
        there = set(committed(self.bucket.store, self.bucket.prefix))
        assert {*self.young, *self.old, self.pinned} <= there
        assert all(self.bucket.keys(id) == ["archive", "manifest.json", "roles"] for id in there)

    def is_done(self) -> None:
        assert committed(self.bucket.store, self.bucket.prefix) == sorted([*self.young, *self.old, self.pinned])
        assert all(self.bucket.keys(id) == [] and self.bucket.row(id)["deleted_at"] for id in self.marked)
        assert all(self.bucket.row(id)["marked_at"] for id in self.old)
        assert self.bucket.row(self.pinned)["marked_at"] is None
        assert self.open() == []


@pytest.fixture(scope="module")
def worker() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKS], cwd=REPOSITORY,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield process
    process.communicate()


@pytest.fixture
def case(home: Home, ledger: Ledger, ledger_conninfo: str, worker: subprocess.Popen[str]) -> Case:
    return Case(home, ledger, ledger_conninfo, worker)


@pytest.mark.parametrize(
    ("step", "verbs"),
    [
        pytest.param("plan stored and nothing begun", [], marks=pytest.mark.soak),
        pytest.param("unmarking and not unmarked", ["unmark"], marks=pytest.mark.soak),
        pytest.param("unmarked and not told", ["unmark"], marks=pytest.mark.soak),
        pytest.param("deleting and nothing gone", ["delete"], marks=pytest.mark.soak),
        ("the manifest gone", ["delete"]),
        ("half of the data gone", ["delete"]),
        pytest.param("all gone and not on record", ["delete"], marks=pytest.mark.soak),
        pytest.param("on record and not told", ["delete"], marks=pytest.mark.soak),
        pytest.param("between two backups", ["delete"], marks=pytest.mark.soak),
        pytest.param("marking and not marked", ["mark"], marks=pytest.mark.soak),
        ("marked and not told", ["mark"]),
    ],
)
def test_killed_at_a_step_and_run_again(case: Case, step: str, verbs: list[str]) -> None:
    assert case.run(dies=step) == -signal.SIGKILL
    assert case.open() == verbs
    case.holds()
    assert case.run() == 0
    case.is_done()


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_any_time_again_and_again(case: Case, seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(4):
        case.run(slow=True, kill_after=dice.uniform(0, 0.6))
        case.holds()
    assert case.run() == 0
    case.is_done()
