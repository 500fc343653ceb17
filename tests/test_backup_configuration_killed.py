"""An archive of the configuration killed at any step: no manifest without a whole one, and the next run makes it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from sandbox.home import REPOSITORY, Home
from sandbox.servers import s3
from tests.retention_server import bucket
from upkeep.backup.configuration import archive
from upkeep.backup.manifest import committed, ids, read
from upkeep.backup.store import Store
from upkeep.ledger import Ledger

WORKS = """
import json, os, sys, traceback
from pathlib import Path
import boto3
from botocore.config import Config
from tests.dying import die_at
from upkeep.backup import manifest, records
from upkeep.backup.configuration import archive, collect, work
from upkeep.backup.store import Store
from upkeep.ledger import Ledger, Run

STEPS = {
    "in the middle of the tree": lambda: die_at(collect, "_file", count=9),
    "archive and no index": lambda: die_at(Store, "write", after=True),
    "written and not read back": lambda: die_at(archive, "read_back"),
    "read back and no manifest": lambda: die_at(manifest, "commit"),
    "committed and not on record": lambda: die_at(records, "remember"),
    "on record and not proved": lambda: die_at(records, "proved"),
}

def work_once(said):
    if said["dies"]:
        STEPS[said["dies"]]()
    connection = said["s3"]
    client = boto3.client("s3", aws_access_key_id=connection["login"], aws_secret_access_key=connection["password"],
        endpoint_url=connection["extra"]["endpoint_url"], region_name="us-east-1",
        config=Config(**connection["extra"]["config_kwargs"]))
    job = work.Job(platform="studyspot", store=Store(client, "studyspot-backups"), prefix=said["prefix"])
    run, notes = Run(platform="studyspot", dag_id="d", run_id="r", task_id="configuration"), collect.Notes()
    with Ledger(said["ledger"]) as ledger:
        members = collect.trees(Path(said["root"]), ["/etc/app"], notes, encrypted=False)
        work.carry_out(job, ledger, run, members, notes)

# Importing takes longer than the work: each line is done by a process of its own, which may be killed.
for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            work_once(json.loads(line))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
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


@pytest.mark.parametrize(
    ("step", "counts"),
    [
        ("in the middle of the tree", 0),
        pytest.param("archive and no index", 0, marks=pytest.mark.soak),
        pytest.param("written and not read back", 0, marks=pytest.mark.soak),
        ("read back and no manifest", 0),
        pytest.param("committed and not on record", 1, marks=pytest.mark.soak),
        ("on record and not proved", 1),
    ],
)
def test_killed_at_a_step_and_run_again(
    home: Home,
    ledger: Ledger,
    ledger_conninfo: str,
    worker: subprocess.Popen[str],
    tmp_path: Path,
    step: str,
    counts: int,
) -> None:
    client, name = bucket(home)
    store, prefix = Store(client, name), f"{uuid4().hex}/"
    content = {f"hosts/etc/app/{n:02}.conf": f"content = {n}\n" for n in range(20)}
    (tmp_path / "etc/app").mkdir(parents=True)
    for path, text in content.items():
        (tmp_path / path.removeprefix("hosts/")).write_text(text)

    def once(dies: str = "") -> int:
        said = {"s3": s3.connection_to(home), "ledger": ledger_conninfo, "prefix": prefix, "root": str(tmp_path)}
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(json.dumps({**said, "dies": dies}) + "\n")
        worker.stdin.flush()
        return int(worker.stdout.readline())

    def whole(id: str) -> bool:
        manifest = read(store, prefix, id, platform="studyspot")
        return archive.read_back(store, manifest, None, archive.index(store, manifest, None)) == []

    assert once(step) == -signal.SIGKILL
    assert [row["state"] for row in ledger.rows("select state from actions")] == ["open"]
    backups = committed(store, prefix)
    assert len(backups) == counts
    assert all(map(whole, backups))
    assert once() == 0
    newest = max(set(committed(store, prefix)) - set(backups))
    assert whole(newest)
    found = archive.fetch(store, read(store, prefix, newest), None, "hosts/etc/app/07.conf")
    assert found is not None
    assert found.content.decode() == content["hosts/etc/app/07.conf"]
    states = [row["state"] for row in ledger.rows("select state from actions order by id")]
    assert states == ["abandoned", "done"]
    (row,) = ledger.rows("select content_state from backups where id = %s", [newest])
    assert row["content_state"] == "verified"
    assert len(list(ids(store, prefix))) <= 2, "what the killed one left is retention's to sweep"
