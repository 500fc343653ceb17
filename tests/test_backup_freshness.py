"""Age, proof, size, log and client of backups: each fault seen red on real servers, healed, and seen green."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config

from sandbox import processes
from sandbox.home import Home
from tests.backup_bucket import DAY, Bucket
from tests.conftest import run
from tests.postgres_server import PostgresServer
from upkeep.backup import freshness
from upkeep.backup.manifest import Kind, folder
from upkeep.backup.programs import Programs
from upkeep.backup.retention.known import Place
from upkeep.backup.store import Store
from upkeep.findings import Outcome, Severity, ok
from upkeep.ledger import Ledger
from upkeep.platforms.backup import Backup, DatabaseBackup
from upkeep.postgres.session import connect

SECTION = Backup(bucket="studyspot-backups", database=DatabaseBackup())
HOUR = timedelta(hours=1)
KEYS = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}


@pytest.fixture
def bucket(home: Home, ledger: Ledger) -> Bucket:
    ledger.record(run(), [ok("anything", Severity.P4)])
    with ledger.transaction() as connection:
        connection.execute("update runs set first_seen_at = now() - interval '30 days'")
    return Bucket(home, ledger, f"{uuid4().hex}/")


def look(bucket: Bucket, kind: Kind = "database") -> dict[str, Outcome]:
    place = Place(bucket.platform, kind, bucket.store, bucket.prefix)
    return {outcome.check: outcome for outcome in freshness.look_at(bucket.ledger, [place], SECTION)}


def told(outcome: Outcome) -> tuple[str, str]:
    (finding,) = outcome.findings
    return finding.severity.value, finding.summary


def test_no_backup_at_all_is_red_and_the_first_one_heals_it(bucket: Bucket) -> None:
    seen = look(bucket)
    assert told(seen["backup_age"]) == (
        "P1", "no backup of the database at all, in the 30 days since Upkeep looks after the platform",
    )  # fmt: skip
    assert told(seen["backup_verified"])[0] == "P1"
    id = bucket.make(HOUR)
    assert {outcome.state for outcome in look(bucket).values()} == {"ok"}
    bucket.store.delete(f"{folder(bucket.prefix, id)}manifest.json")
    assert look(bucket)["backup_age"].state == "finding", "without its manifest it is none"


def test_a_new_platform_has_time_for_its_first_backup(bucket: Bucket) -> None:
    with bucket.ledger.transaction() as connection:
        connection.execute("update runs set first_seen_at = now()")
    severity, summary = told(look(bucket)["backup_age"])
    assert (severity, summary.split(" by ")[0]) == ("P4", "no backup of the database yet; the first must be there")


def test_backups_that_somebody_deleted_are_told_at_once(bucket: Bucket) -> None:
    with bucket.ledger.transaction() as connection:
        connection.execute("update runs set first_seen_at = now()")
    id = bucket.make(HOUR)
    bucket.store.delete(f"{folder(bucket.prefix, id)}manifest.json")
    seen = look(bucket)
    said = "of the database is left: 1 on record, and none of them in the bucket"
    assert told(seen["backup_age"]) == ("P1", f"no backup {said}")
    assert told(seen["backup_verified"]) == ("P1", f"no content-verified backup {said}")
    bucket.make(HOUR)
    assert look(bucket)["backup_age"].state == "ok"


def test_old_and_unverified_are_told_apart(bucket: Bucket) -> None:
    bucket.make(4 * DAY)
    old = bucket.make(37 * HOUR, verified=False)
    seen = look(bucket)
    assert told(seen["backup_age"])[1].endswith(f"37 h ago (allowed 36 h): {old}")
    assert "no content-verified backup of the database since" in told(seen["backup_verified"])[1]
    young = bucket.make(HOUR, verified=False)
    seen = look(bucket)
    assert (seen["backup_age"].state, seen["backup_verified"].state) == ("ok", "finding")
    bucket.found(young, content_state="broken")
    assert look(bucket)["backup_verified"].state == "finding"
    bucket.found(young, content_state="verified")
    assert look(bucket)["backup_verified"].state == "ok"


@pytest.mark.parametrize(
    ("size", "severity", "says"), [(300, "P1", "69% smaller"), (550, "P3", "44% smaller"), (1500, "P3", "49% larger")]
)
def test_a_size_out_of_the_band_is_told_and_one_inside_is_not(
    bucket: Bucket, size: int, severity: str, says: str
) -> None:
    for night in range(1, 9):
        bucket.make(night * DAY, size=1000)
    id = bucket.make(HOUR, size=size)
    found, summary = told(look(bucket)["backup_size"])
    assert found == severity
    assert summary.startswith(f"{id} has ")
    assert says in summary
    assert "the median of 7" in summary
    bucket.make(0.5 * HOUR, size=1200)
    assert look(bucket)["backup_size"].state == "ok"


def test_a_copy_of_files_is_as_large_as_what_it_stands_for(bucket: Bucket) -> None:
    for night, bytes in enumerate((400, 1000, 1000, 1000)):
        bucket.make(night * DAY + HOUR, kind="files", facts={"source_bytes": bytes * 1000})
    seen = look(bucket, "files")
    assert told(seen["backup_size"])[1].split(" has ")[1].startswith("400,000 bytes, 60% smaller")
    assert "backup_verified" not in seen


def test_a_clock_ahead_and_a_store_that_is_away(bucket: Bucket, home: Home) -> None:
    bucket.make(-5 * HOUR)
    assert "is dated" in told(look(bucket)["backup_age"])[1]
    nobody = f"http://127.0.0.1:{home.port('nobody', 29999)}"
    away = boto3.client("s3", endpoint_url=nobody, config=Config(retries={"total_max_attempts": 1}), **KEYS)
    bucket.store = Store(away, "studyspot-backups")
    seen = look(bucket)
    assert {outcome.state for outcome in seen.values()} == {"unknown"}
    assert seen["backup_age"].worst == Severity.P1
    assert seen["backup_size"].explained_by == "backup_age"


@pytest.fixture(scope="module")
def archiving(home: Home) -> PostgresServer:
    return PostgresServer(home, 17, name="postgres.archiving", archive_mode=True)


def test_log_that_does_not_reach_the_archive(archiving: PostgresServer) -> None:
    def judged(most: timedelta = timedelta(seconds=0.2)) -> Outcome:
        with connect(archiving.conninfo) as connection:
            return freshness.wal(connection, Severity.P1, most)

    def archive(command: str) -> None:
        archiving.superuser(f"alter system set archive_command = '{command}'")
        archiving.superuser("select pg_reload_conf()")

    archive("/bin/true")
    archiving("create table if not exists t as select 1 as a")
    archiving.superuser("select pg_switch_wal()")
    archived = "select last_archived_wal is not null from pg_stat_archiver"
    processes.wait_until(lambda: archiving.superuser(archived)[0][0], 15, "a segment to be archived")
    archive("/bin/false")
    archiving("insert into t select i from generate_series(1, 20000) as i")
    processes.wait_until(lambda: judged().state == "finding", 5, "the archive to be old")
    severity, summary = told(judged())
    assert severity == "P1"
    assert summary.partition(" bytes of the log wait to be archived, nothing was for ")[2].endswith("(allowed 0 min)")
    assert judged(timedelta(hours=1)).state == "ok", "inside what may be lost"
    archive("/bin/true")
    archiving.superuser("select pg_switch_wal()")
    processes.wait_until(lambda: judged().state == "ok", 15, "the archive to catch up")


def test_without_an_archive_there_is_no_point_in_time(seventeen: PostgresServer) -> None:
    with connect(seventeen.conninfo) as connection:
        outcome = freshness.wal(connection, Severity.P1, DAY)
    assert told(outcome)[1] == "archive_mode is off: nothing can be restored but the base backup itself"


@pytest.mark.parametrize(
    ("installed", "says"),
    [
        ([], "there is no pg_dump on this worker; the server is version 17"),
        ([(150018, "15.18")], "the newest pg_dump on this worker is 15.18, older than the server, version 17"),
        ([(180003, "18.3"), (150018, "15.18")], ""),
    ],
)
def test_a_client_older_than_the_server(installed: list[tuple[int, str]], says: str) -> None:
    programs = [Programs(Path("/usr"), version, text) for version, text in installed]
    outcome = freshness.client(170010, programs, Severity.P1)
    assert [finding.summary for finding in outcome.findings] == ([says] if says else [])
