"""Killed at each step, and at any time: no row is lost or deleted twice, and all of it is written down."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from sandbox import processes
from sandbox.home import REPOSITORY, Home
from sandbox.servers import s3
from tests.conftest import run
from tests.retention_server import BOOKINGS, USERS, RetentionServer, archived, bucket, people
from upkeep.ledger import Ledger
from upkeep.platforms.database import Deletion, Postgres, Table
from upkeep.retention.archive import Archive
from upkeep.retention.job import Job, carry_out

WORKS = """
import json, sys
from tests.dying import die_at
from upkeep.ledger import Ledger, Run
from upkeep.platforms.database import Deletion, Postgres, Retention, Table
from upkeep.retention import archive, deleting, dropping, job, progress, records

said = json.loads(sys.argv[1])
deleting.AGAIN_S = 0

STEPS = {
    "before anything": lambda: die_at(deleting._Work, "run"),
    "rows claimed and not deleted": lambda: die_at(deleting._Work, "_delete", count=3),
    "deleted and not committed": lambda: die_at(progress, "write", count=3),
    "committed and not told": lambda: die_at(deleting._Work, "_counts", count=2),
    "told and not forgotten": lambda: die_at(records, "forget"),
    "between two passes": lambda: die_at(deleting._Work, "_another_turn"),
    "archive uploaded and not confirmed": lambda: die_at(archive.Archive, "_confirm", count=2),
    "archive confirmed, without its manifest": lambda: die_at(archive.Archive, "_put"),
    "archive confirmed and not active": lambda: die_at(archive.Archive, "write", after=True, count=2),
    "in the middle of an archive": lambda: die_at(deleting._Work, "_slice", count=3),
    "an archive's rows deleted, its manifest not yet final": lambda: die_at(archive.Archive, "finish", count=2),
    "a manifest final and the archive still active": lambda: die_at(archive.Archive, "finish", after=True, count=2),
}
if said["dies"]:
    STEPS[said["dies"]]()

import boto3
from botocore.config import Config
connection = said["s3"]
client = boto3.client("s3", aws_access_key_id=connection["login"], aws_secret_access_key=connection["password"],
    endpoint_url=connection["extra"]["endpoint_url"], region_name="us-east-1",
    config=Config(**connection["extra"]["config_kwargs"]))
rule = {"column": "made", "keep": "3y", "archive": said["archive"]}
if "not" in said["dies"]:
    # A plain rule's transaction is one statement: these steps are those of the others.
    rule["only"] = "note <> ''"
section = Postgres(
    deletion=Deletion(rest=said["rest"], least_rows=50, most_rows=60, most_share=0.9),
    tables=(Table(name="users", retention=Retention(column="last_seen", keep="7y", only="status = 'inactive'")),
            Table(name="bookings", retention=Retention(**rule))))
with Ledger(said["ledger"]) as ledger:
    work = job.Job(
        run=Run(platform="studyspot", dag_id="d", run_id="r", task_id="retention"), ledger=ledger, section=section,
        maintenance=said["maintenance"], owner=said["owner"],
        archive=archive.Archive(client, "studyspot-backups", said["prefix"], rows=300))
    job.carry_out(work)
"""


def section(archive: bool) -> Postgres:
    rules = {"users": USERS, "bookings": BOOKINGS.model_copy(update={"archive": archive})}
    return Postgres(
        deletion=Deletion(rest=0, most_share=0.9, least_rows=200),
        tables=tuple(Table(name=name, retention=rule) for name, rule in rules.items()),
    )


SERVER = RetentionServer


@pytest.fixture
def server(seventeen: RetentionServer) -> RetentionServer:
    return seventeen


class Case:
    """Expired rows, and a worker that deletes them."""

    def __init__(self, home: Home, server: RetentionServer, ledger: Ledger, ledger_conninfo: str, prefix: str) -> None:
        self.home, self.server, self.ledger = home, server, ledger
        self.archive = Archive(bucket(home)[0], "studyspot-backups", prefix, rows=300)
        self.said = {
            "maintenance": server.conninfo, "owner": server.deleter, "ledger": ledger_conninfo,
            "s3": s3.connection_to(home), "prefix": prefix, "rest": 0,
        }  # fmt: skip
        people(server)
        server("create table before as select * from bookings where made < now() - interval '1098 days'")
        self.due = server("select count(*) from before")[0][0]

    def start(self, *, archive: bool, dies: str = "", rest: float = 0) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", WORKS, json.dumps({**self.said, "archive": archive, "dies": dies, "rest": rest})],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY / "plugins")},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def states(self) -> list[tuple[str, str]]:
        rows = self.ledger.rows("select object, state from actions where capability = 'retention' order by id")
        return [(row["object"], row["state"]) for row in rows]

    def finish(self, *, archive: bool) -> None:
        """Run it again, to the end, and hold everything against everything."""
        server = self.server
        # The session of whoever was killed may still hold its locks for a moment.
        gone = "select count(*) = 0 from pg_stat_activity where usename = 'upkeep_owner' and datname = 'studyspot'"
        processes.wait_until(lambda: server.superuser(gone)[0][0], 10, "the killed worker's session to end")
        work = Job(
            run=run(task="retention"),
            ledger=self.ledger,
            section=section(archive),
            maintenance=server.conninfo,
            owner=server.deleter,
            archive=self.archive if archive else None,
        )
        outcomes = {outcome.object: outcome for outcome in carry_out(work) if outcome.check == "retention_delete"}
        assert {outcome.state for outcome in outcomes.values()} == {"ok"}
        deleted = set(outcomes)
        assert set(deleted) == {"public.bookings", "public.users"}
        assert server("select count(*) from bookings where made < now() - interval '1098 days'") == [(0,)]
        assert server("select count(*) from bookings") == [(4000 - self.due,)], "nothing else went"
        told = self.ledger.rows(
            "select count(*) as n, sum(rows) as rows, sum(ids) as ids, min(platform) as platform from deletions"
            " where relation = 'public.bookings'"
        )[0]
        assert told["rows"] == self.due, "each row once"
        assert told["ids"] == server("select sum(hashtextextended(id::text, 0)) from before")[0][0], "and these rows"
        assert server.superuser("select count(*) from upkeep.deletions") == [(0,)]
        assert server("select count(*) from users where last_seen < now() - interval '2562 days'")[0][0] < 36
        if archive:
            rows = archived(self.archive)
            assert len(rows) == self.due
            assert {(row["id"], row["note"]) for row in rows} == set(server("select id, note from before"))
        assert self.states()[-2:] == [("public.bookings", "done"), ("public.users", "done")]


@pytest.fixture
def case(home: Home, server: RetentionServer, ledger: Ledger, ledger_conninfo: str) -> Case:
    return Case(home, server, ledger, ledger_conninfo, f"kill-{random.randrange(10**9)}/")


STEPS = (
    "deleted and not committed", "committed and not told", "archive confirmed and not active",
    "in the middle of an archive", "a manifest final and the archive still active",
)  # fmt: skip
MORE_STEPS = (
    "before anything", "rows claimed and not deleted", "told and not forgotten", "between two passes",
    "archive uploaded and not confirmed", "archive confirmed, without its manifest",
    "an archive's rows deleted, its manifest not yet final",
)  # fmt: skip


@pytest.mark.parametrize("step", [*STEPS, *(pytest.param(step, marks=pytest.mark.soak) for step in MORE_STEPS)])
def test_killed_at_a_step_and_run_again(case: Case, step: str) -> None:
    archive = "archive" in step
    process = case.start(archive=archive, dies=step)
    _, wrong = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, wrong
    assert case.states() == [("public.bookings", "open")], "killed while the step was open"
    case.finish(archive=archive)
    assert case.states()[0] == ("public.bookings", "abandoned")


def killed_at_a_time(case: Case, seed: int) -> None:
    dice = random.Random(seed)
    archive = bool(seed % 2)
    process = case.start(archive=archive, rest=10)
    processes.wait_until(lambda: ("public.bookings", "open") in case.states(), 20, "the work to begin")
    time.sleep(dice.uniform(0, 0.5))
    assert case.states()[-1][1] == "open", "killed while a step was open"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    case.finish(archive=archive)


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_some_time_and_run_again(case: Case, seed: int) -> None:
    killed_at_a_time(case, seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 12))
def test_killed_at_any_time_and_run_again(case: Case, seed: int) -> None:
    killed_at_a_time(case, seed)


def test_without_the_ledger_nothing_is_deleted_that_is_not_told_later(
    case: Case, ledger: Ledger, ledger_conninfo: str
) -> None:
    """The ledger goes away in the middle: at most two transactions are untold, and the next run tells them."""
    ledger.connection.execute("alter table deletions rename to elsewhere")
    process = case.start(archive=False)
    process.communicate(timeout=60)
    assert process.returncode == 1
    lost = 4000 - case.server("select count(*) from bookings")[0][0]
    assert 0 < lost <= 130
    assert case.server.recorded() == lost
    ledger.connection.execute("alter table elsewhere rename to deletions")
    case.finish(archive=False)


def test_two_at_once_are_one(case: Case) -> None:
    first = case.start(archive=False, rest=20)
    processes.wait_until(lambda: ("public.bookings", "open") in case.states(), 20, "the work to begin")
    first.send_signal(signal.SIGSTOP)
    second = case.start(archive=False)
    _, wrong = second.communicate(timeout=60)
    assert "another run is deleting rows here" in wrong
    first.kill()
    first.wait()
    case.finish(archive=False)
