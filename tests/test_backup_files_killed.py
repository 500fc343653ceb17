"""A copy of files killed at any step: no manifest without a whole backup, and the next run copies only the rest."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.home import REPOSITORY, Home
from sandbox.servers import s3
from tests.test_backup_files import Files
from upkeep.backup.manifest import committed
from upkeep.ledger import Ledger

WORKS = """
import json, os, signal, sys, time, traceback
import boto3
from botocore.config import Config
from tests.dying import die_at
from upkeep.backup import manifest, records
from upkeep.backup.files import work
from upkeep.backup.files.copying import Copier
from upkeep.backup.store import Store
from upkeep.ledger import Ledger, Run

STEPS = {
    "plan stored and nothing copied": lambda: die_at(work, "copy"),
    "in the middle of the files": lambda: die_at(Copier, "_arrived", count=9),
    "all copied and no inventory": lambda: die_at(Store, "put"),
    "inventory and no manifest": lambda: die_at(manifest, "commit"),
    "committed and not on record": lambda: die_at(records, "remember"),
}

def work_once(said):
    if said["dies"]:
        STEPS[said["dies"]]()
    if said["slow"]:
        original = Copier._send
        Copier._send = lambda *arguments: (time.sleep(0.05), original(*arguments))[1]
    connection = said["s3"]
    client = boto3.client("s3", aws_access_key_id=connection["login"], aws_secret_access_key=connection["password"],
        endpoint_url=connection["extra"]["endpoint_url"], region_name="us-east-1",
        config=Config(**connection["extra"]["config_kwargs"]))
    copier = Copier(Store(client, said["source"]), Store(client, said["target"]), said["prefix"], "STANDARD")
    run = Run(platform="studyspot", dag_id="d", run_id="r", task_id="files")
    with Ledger(said["ledger"]) as ledger:
        work.carry_out(work.Job(platform="studyspot", copier=copier, prefix=said["prefix"]), ledger, run)

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


@pytest.fixture(scope="module")
def worker() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKS], cwd=REPOSITORY,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield process
    process.communicate()


class Case:
    def __init__(self, home: Home, ledger: Ledger, conninfo: str, worker: subprocess.Popen[str]) -> None:
        self.files, self.ledger, self.worker = Files(home, home), ledger, worker
        self.content = {f"f{n:02}": f"content {n}" for n in range(30)}
        self.files.put(**self.content)
        self.said = {
            "s3": s3.connection_to(home), "ledger": conninfo, "source": self.files.source.bucket,
            "target": self.files.target.bucket, "prefix": self.files.prefix, "dies": "", "slow": False,
            "kill_after": None,
        }  # fmt: skip

    def run(self, **said: Any) -> int:
        """One copy, in a process of its own; its exit status."""
        assert self.worker.stdin is not None
        assert self.worker.stdout is not None
        self.worker.stdin.write(json.dumps({**self.said, **said}) + "\n")
        self.worker.stdin.flush()
        status = int(self.worker.stdout.readline())
        assert status in (0, -signal.SIGKILL)
        return status

    def states(self) -> list[str]:
        rows = self.ledger.rows("select state from actions where verb = 'copy' order by id")
        return [row["state"] for row in rows]

    def copies(self) -> int:
        return len(list(self.files.target.objects(f"{self.files.prefix}objects/")))

    def is_done(self) -> None:
        newest = committed(self.files.target, self.files.prefix)[-1]
        assert self.files.restored(newest) == self.content
        assert self.copies() == len(self.content)
        assert self.states()[-1] == "done"
        assert self.ledger.rows("select id from backups order by id desc limit 1") == [{"id": newest}]


@pytest.fixture
def case(home: Home, ledger: Ledger, ledger_conninfo: str, worker: subprocess.Popen[str]) -> Case:
    return Case(home, ledger, ledger_conninfo, worker)


@pytest.mark.parametrize(
    ("step", "states", "left"),
    [
        pytest.param("plan stored and nothing copied", ["open"], 0, marks=pytest.mark.soak),
        ("in the middle of the files", ["open"], None),
        pytest.param("all copied and no inventory", ["open"], 30, marks=pytest.mark.soak),
        ("inventory and no manifest", ["open"], 30),
        ("committed and not on record", ["open"], 30),
    ],
)
def test_killed_at_a_step_and_run_again(case: Case, step: str, states: list[str], left: int | None) -> None:
    assert case.run(dies=step) == -signal.SIGKILL
    assert case.states() == states
    was = case.copies()
    assert 8 <= was < 30 if left is None else was == left
    backups = committed(case.files.target, case.files.prefix)
    assert len(backups) == (step == "committed and not on record")
    assert all(case.files.restored(id) == case.content for id in backups)
    assert case.run() == 0
    assert case.ledger.rows("select after ->> 'copied' as n from actions order by id desc limit 1") == [
        {"n": str(30 - was)}
    ], "only the rest"
    case.is_done()


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_any_time_again_and_again(case: Case, seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(4):
        case.run(slow=True, kill_after=dice.uniform(0, 0.6))
        for id in committed(case.files.target, case.files.prefix):
            assert case.files.restored(id) == case.content
    assert case.run() == 0
    case.is_done()
