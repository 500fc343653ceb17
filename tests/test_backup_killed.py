"""Killed at each step: no manifest without a whole backup, the next try succeeds, and nothing stays behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from sandbox import processes
from sandbox.home import REPOSITORY
from sandbox.servers import s3
from tests.backup_server import BackupServer
from upkeep.backup import manifest, scratch, sweeping
from upkeep.ledger import Ledger

SERVER = BackupServer

WORKS = """
import json, sys
from pathlib import Path
import boto3
from botocore.config import Config
from tests.dying import die_at
from upkeep.backup import content, dump, manifest, programs, reading, restoring, scratch, store, sweeping, verification
from upkeep.ledger import Ledger, Run

said = json.loads(sys.argv[1])
store.PART = 100_000

STEPS = {
    "snapshot exported": lambda: die_at(content, "exported", after=True),
    "tables being counted": lambda: die_at(content, "digest", count=2),
    "part on its way": lambda: die_at(store._Upload, "_put", count=2),
    "parts uploaded and not completed": lambda: die_at(store._Upload, "finish"),
    "archive uploaded, without the roles": lambda: die_at(dump, "_roles"),
    "all uploaded, without a manifest": lambda: die_at(manifest, "commit"),
    "manifest written and not on record": lambda: die_at(dump, "Made"),
    "archive being fetched": lambda: die_at(restoring, "_fetch", after=True),
    "scratch started": lambda: die_at(restoring, "_try"),
    "restored": lambda: die_at(restoring, "compare"),
    "compared": lambda: die_at(restoring, "ask"),
}
if said["dies"]:
    STEPS[said["dies"]]()
connection = said["s3"]
client = boto3.client("s3", aws_access_key_id=connection["login"], aws_secret_access_key=connection["password"],
    endpoint_url=connection["extra"]["endpoint_url"], region_name="us-east-1",
    config=Config(**connection["extra"]["config_kwargs"]))
place = store.Store(client, "studyspot-backups")
directories = [Path(said["programs"])]
run = Run(platform="studyspot", dag_id="d", run_id="r", task_id="t")
with Ledger(said["ledger"]) as ledger:
    if said["verify"]:
        scratch.ROOM = said.get("room", scratch.ROOM)
        subject = verification.Subject("studyspot", place, said["prefix"], said["verify"], programs=directories)
        with ledger.action(run, "backup", "verify content", said["verify"]):
            verdict = verification.restore(subject, Path(said["scratch"]), (), lambda path: None, lambda path: None)
        assert not verdict.faults and not verdict.unknown, verdict
    else:
        with ledger.exclusive("backup/studyspot/database") as alone:
            assert alone
            for gone in sweeping.uploads(place, said["prefix"], older_than=None):
                print("swept", gone)
            with ledger.action(run, "backup", "dump", "database"):
                job = dump.Job("studyspot", said["conninfo"], place, said["prefix"])
                made = dump.dump(job, lambda version: programs.client(version, directories))
        print(made.manifest.id)
"""


@pytest.fixture(scope="module")
def server(each: Callable[..., Any]) -> Iterator[BackupServer]:
    server: BackupServer = each(17, BackupServer).empty()
    server.fill()
    # Enough for several parts: noise does not compress.
    server("create table noise as select i, sha512(i::text::bytea) as h from generate_series(1, 8000) as i")
    yield server
    server.empty()


class Worker:
    def __init__(self, server: BackupServer, ledger: Ledger, ledger_conninfo: str) -> None:
        self.server, self.ledger = server, ledger
        self.parent = Path(tempfile.mkdtemp(prefix="up-", dir="/tmp"))
        self.said = {
            "conninfo": server.conninfo, "s3": s3.connection_to(server.home), "ledger": ledger_conninfo,
            "prefix": server.prefix, "programs": str(server.directories[0]), "scratch": str(self.parent),
        }  # fmt: skip

    def __call__(self, dies: str = "", verify: str = "") -> str:
        """What the worker printed, or the state of its action when it was killed."""
        command = [sys.executable, "-c", WORKS, json.dumps({**self.said, "dies": dies, "verify": verify})]
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env={"PYTHONPATH": ".:plugins", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )
        if not dies:
            assert done.returncode == 0, done.stderr
            return done.stdout
        assert done.returncode == -signal.SIGKILL, done.stderr
        return str(self.ledger.rows("select state from actions order by id desc limit 1")[0]["state"])

    def alive(self, *names: str) -> list[str]:
        """Programs that a dead worker left running."""
        mine = str(self.parent)
        return [
            " ".join(one.info["cmdline"] or ())
            for one in psutil.process_iter(["name", "cmdline"])
            if one.info["name"] in names
            and (one.info["name"] == "pg_dump" or any(mine in part for part in one.info["cmdline"] or ()))
        ]


@pytest.fixture
def worker(server: BackupServer, ledger: Ledger, ledger_conninfo: str) -> Iterator[Worker]:
    made = Worker(server, ledger, ledger_conninfo)
    yield made
    scratch.sweep(made.parent)
    made.parent.rmdir()
    for one in list(server.store.objects(server.prefix)):
        server.store.delete(one.key)


def soak(step: str) -> Any:
    return pytest.param(step, marks=pytest.mark.soak)


@pytest.mark.parametrize(
    "step",
    [
        soak("snapshot exported"),
        soak("tables being counted"),
        "part on its way",
        soak("parts uploaded and not completed"),
        soak("archive uploaded, without the roles"),
        "all uploaded, without a manifest",
        soak("manifest written and not on record"),
    ],
)
def test_a_backup_killed_at_any_step_counts_only_when_it_is_whole(
    server: BackupServer, worker: Worker, step: str
) -> None:
    assert worker(step) == "open"
    processes.wait_until(lambda: not worker.alive("pg_dump"), 10, "pg_dump to end with its worker")
    whole = manifest.committed(server.store, server.prefix)
    assert len(whole) == (1 if step.startswith("manifest") else 0)
    if step.startswith("part"):
        assert server.store.unfinished(server.prefix), "there is something to sweep"
    printed = worker()
    assert ("swept" in printed) == step.startswith("part")
    assert server.store.unfinished(server.prefix) == []
    for id in {*whole, *manifest.committed(server.store, server.prefix)}:
        assert server.read_back(id) == []
    assert worker.ledger.rows("select state from actions order by id") == [{"state": "abandoned"}, {"state": "done"}]


@pytest.mark.parametrize("step", [soak("archive being fetched"), soak("scratch started"), "restored", soak("compared")])
def test_a_verification_killed_at_any_step_is_swept_and_succeeds_again(
    server: BackupServer, worker: Worker, step: str
) -> None:
    backup = server.back_up()
    assert worker(step, verify=backup.id) == "open"
    processes.wait_until(lambda: not worker.alive("postgres", "pg_restore"), 10, "the server to end with its worker")
    (left,) = worker.parent.iterdir()
    assert scratch.left(worker.parent) == [left]
    (gone,) = scratch.sweep(worker.parent)
    assert (gone.backup, gone.platform, gone.path) == (backup.id, "studyspot", left)
    worker(verify=backup.id)
    assert list(worker.parent.iterdir()) == []


@pytest.mark.soak
def test_a_full_disk_is_not_blamed_on_the_backup(server: BackupServer, worker: Worker) -> None:
    backup = server.back_up()
    worker.said["room"] = 0
    script = 'mount -t tmpfs -o size=30m none "$0" && exec "$@"'
    done = subprocess.run(
        [
            *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(worker.parent)),
            *(sys.executable, "-c", WORKS, json.dumps({**worker.said, "dies": "", "verify": backup.id})),
        ],
        cwd=REPOSITORY, env={"PYTHONPATH": ".:plugins", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
    )  # fmt: skip
    # It may be full while the cluster is made or while it is filled; neither is a fault of the backup.
    assert re.search(r"(ScratchError|ProgramError): ", done.stderr), done
    assert "No space left on device" in done.stderr
    assert "HINT: make room" in done.stderr
    assert server.restore(backup.id) == []


def test_what_a_living_worker_uses_is_not_swept(server: BackupServer, tmp_path: Path) -> None:
    with scratch.directory(Path("/tmp"), "studyspot", "x", 0) as mine:
        assert mine not in scratch.left(Path("/tmp"))
        assert mine.exists()
    assert not mine.exists()


def test_a_young_upload_of_somebody_else_is_left_alone(server: BackupServer) -> None:

    begun = server.store.client.create_multipart_upload(Bucket=server.store.bucket, Key=f"{server.prefix}x/y")
    assert begun["UploadId"]
    assert list(sweeping.uploads(server.store, server.prefix, older_than=timedelta(days=7))) == []
    assert list(sweeping.uploads(server.store, server.prefix, older_than=None)) == [
        server.store.url(f"{server.prefix}x/y")
    ]
