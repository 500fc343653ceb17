"""Killed at each step: nothing counts that is not whole, the next try goes on, and no log is lost in between."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from sandbox import processes
from sandbox.home import REPOSITORY
from sandbox.servers import s3
from tests.cluster_server import ClusterServer
from upkeep.backup import manifest, scratch
from upkeep.backup.physical.source import BASES, LOG
from upkeep.ledger import Ledger

WORKS = """
import json, sys
from pathlib import Path
import boto3
from botocore.config import Config
from tests.dying import die_at
from upkeep.backup import manifest, programs, scratch, store, sweeping, verification
from upkeep.backup.physical import base, proving, recovering, source, wal
from upkeep.ledger import Ledger, Run

said = json.loads(sys.argv[1])
store.PART = 100_000

STEPS = {
    "part on its way": lambda: die_at(store._Upload, "_put", count=2),
    "uploaded, without the list of files": lambda: die_at(base, "write", count=2),
    "uploaded, without a manifest": lambda: die_at(manifest, "commit"),
    "segments fetched": lambda: die_at(base, "write"),
    "manifest written, the slot not moved": lambda: die_at(source, "advance"),
    "laid out": lambda: die_at(recovering, "_settings"),
    "replayed": lambda: die_at(recovering, "_recovered"),
}
if said["dies"]:
    STEPS[said["dies"]]()
connection = said["s3"]
client = boto3.client("s3", aws_access_key_id=connection["login"], aws_secret_access_key=connection["password"],
    endpoint_url=connection["extra"]["endpoint_url"], region_name="us-east-1",
    config=Config(**connection["extra"]["config_kwargs"]))
place = store.Store(client, "studyspot-backups")
directories, scratch_parent = [Path(said["programs"])], Path(said["scratch"])
choose = lambda version: programs.client(version, directories)
run = Run(platform="studyspot", dag_id="d", run_id="r", task_id="t")
job = source.Job("studyspot", said["conninfo"], place, said["prefix"])
with Ledger(said["ledger"]) as ledger, ledger.action(run, "backup", said["does"], "cluster"):
    for gone in sweeping.uploads(place, said["prefix"], older_than=None):
        print("swept", gone)
    if said["does"] == "base":
        print(base.take(job, choose, checkpoint="fast").manifest.id)
    elif said["does"] == "log":
        print(wal.archive(job, choose, scratch_parent).end)
    else:
        subject = verification.Subject("studyspot", place, said["prefix"], said["id"], programs=directories)
        verdict = proving.restore(subject, scratch_parent, (), lambda path: None, lambda path: None)
        assert not verdict.faults and not verdict.unknown, verdict
"""


@pytest.fixture(scope="module")
def server(each: Callable[..., Any]) -> Iterator[ClusterServer]:
    server: ClusterServer = each(17, ClusterServer).empty()
    server.fill()
    yield server
    server.empty()


class Worker:
    def __init__(self, server: ClusterServer, ledger: Ledger, ledger_conninfo: str) -> None:
        self.server, self.ledger = server, ledger
        self.said = {
            "conninfo": server.conninfo, "s3": s3.connection_to(server.home), "ledger": ledger_conninfo,
            "prefix": server.prefix, "programs": str(server.directories[0]), "scratch": str(server.parent),
        }  # fmt: skip

    def __call__(self, does: str, dies: str = "", id: str = "") -> str:
        """What the worker printed, or the state of its action when it was killed."""
        command = [sys.executable, "-c", WORKS, json.dumps({**self.said, "does": does, "dies": dies, "id": id})]
        env = {"PYTHONPATH": ".:plugins", "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)
        if not dies:
            assert done.returncode == 0, done.stderr
            return done.stdout
        assert done.returncode == -signal.SIGKILL, done.stderr
        processes.wait_until(lambda: not self.alive(), 20, "its programs to end with the worker")
        return str(self.ledger.rows("select state from actions order by id desc limit 1")[0]["state"])

    def alive(self) -> list[str]:
        """Programs that a dead worker left running."""
        mine = str(self.server.parent)
        return [
            one.info["name"]
            for one in psutil.process_iter(["name", "cmdline"])
            if one.info["name"] in ("pg_basebackup", "pg_receivewal", "postgres")
            and (one.info["name"] == "pg_basebackup" or any(mine in part for part in one.info["cmdline"] or ()))
        ]


@pytest.fixture
def worker(server: ClusterServer, ledger: Ledger, ledger_conninfo: str) -> Iterator[Worker]:
    yield Worker(server, ledger, ledger_conninfo)
    scratch.sweep(server.parent)
    assert list(server.parent.iterdir()) == []
    server.forget()


def soak(step: str) -> Any:
    return pytest.param(step, marks=pytest.mark.soak)


@pytest.mark.parametrize(
    "step", ["part on its way", soak("uploaded, without the list of files"), soak("uploaded, without a manifest")]
)
def test_a_base_backup_killed_at_any_step_counts_for_nothing(server: ClusterServer, worker: Worker, step: str) -> None:
    assert worker("base", step) == "open"
    assert manifest.committed(server.store, server.prefix + BASES) == []
    assert bool(server.store.unfinished(server.prefix)) == step.startswith("part")
    printed = worker("base")
    assert ("swept" in printed) == step.startswith("part")
    assert server.store.unfinished(server.prefix) == []
    (id,) = manifest.committed(server.store, server.prefix + BASES)
    assert server.look(id) == []
    assert server("select count(*) from pg_replication_slots where temporary") == [(0,)]
    assert worker.ledger.rows("select state from actions order by id") == [{"state": "abandoned"}, {"state": "done"}]


@pytest.mark.parametrize(
    "step",
    [
        soak("segments fetched"),
        soak("part on its way"),
        "uploaded, without a manifest",
        soak("manifest written, the slot not moved"),
    ],
)
def test_a_round_killed_at_any_step_loses_nothing_of_the_log(server: ClusterServer, worker: Worker, step: str) -> None:
    server.ship()
    base = server.take()
    server("drop table if exists noise")
    server("create table noise as select i, sha512(i::text::bytea) as h from generate_series(1, 8000) as i")
    server.next_segment()
    assert worker("log", step) == "open"
    assert len(manifest.committed(server.store, server.prefix + LOG)) == (2 if step.startswith("manifest") else 1)
    # What it had fetched may go with it: the server keeps its log until it has arrived.
    server.move_on()
    scratch.sweep(server.parent)
    worker("log")
    assert server.store.unfinished(server.prefix) == []
    assert server.look(base.id) == []


@pytest.mark.parametrize("step", [soak("laid out"), soak("replayed")])
def test_a_recovery_killed_at_any_step_is_swept_and_succeeds_again(
    server: ClusterServer, worker: Worker, step: str
) -> None:
    server.ship()
    base = server.take()
    server.ship()
    assert worker("verify", step, id=base.id) == "open"
    (left,) = server.parent.iterdir()
    assert [gone.path for gone in scratch.sweep(server.parent)] == [left]
    worker("verify", id=base.id)
