"""The tasks beside the database's: files, configuration, retention and freshness, as a worker would run them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException

from sandbox import binaries
from sandbox.home import Home
from sandbox.servers import postgres as servers
from sandbox.servers import s3
from sandbox.servers.kubernetes import start_kubernetes
from tests.backup_bucket import DAY, Bucket
from tests.postgres_server import DATABASE, PostgresServer
from tests.retention_server import bucket as s3_bucket
from upkeep.backup import manifest, programs
from upkeep.backup.configuration.operators import BackupConfigurationOperator
from upkeep.backup.files.operators import BackupFilesOperator
from upkeep.backup.retention.operators import BackupFreshnessOperator, BackupRetentionOperator
from upkeep.backup.store import Store
from upkeep.ledger import Ledger
from upkeep.settings import settings

OK = {"ok": 1, "finding": 0, "unknown": 0}


class Platform:
    """StudySpot with all three kinds of backup."""

    def __init__(self, home: Home, ledger: Ledger, path: Path) -> None:
        unique = uuid4().hex[:12]
        client, _ = s3_bucket(home)
        client.create_bucket(Bucket=f"files-{unique}")
        self.files = Store(client, f"files-{unique}")
        self.database = Bucket(home, ledger, f"{unique}-database/")
        self.store, self.prefix, self.host = self.database.store, unique, path / "host"
        (self.host / "etc/studyspot").mkdir(parents=True)
        (self.host / "etc/studyspot/api.yaml").write_text("workers: 4\n")
        level = {"respond": "15m", "resolve": "2h"}
        self.content: dict[str, Any] = {
            "name": "studyspot",
            "title": "StudySpot",
            "severity": {
                "levels": {f"P{rank}": {"name": f"P{rank}", **level} for rank in range(4)},
                "paging": "P0", "notify": "P0",
            },
            "postgres": {},
            "kubernetes": {"namespace": "studyspot"},
            "backup": {
                "bucket": "studyspot-backups",
                "keep_verified": 2,
                "database": {"prefix": self.database.prefix},
                "files": {"bucket": f"files-{unique}", "prefix": f"{unique}-files/", "storage_class": "STANDARD"},
                "configuration": {"prefix": f"{unique}-configuration/", "paths": ["/etc/studyspot"]},
            },
        }  # fmt: skip
        self.file = path / "platforms/studyspot.yaml"
        self.file.parent.mkdir()
        self.write()

    def write(self) -> None:
        self.file.write_text(yaml.safe_dump(self.content))
        settings.cache_clear()

    def committed(self, kind: str) -> list[str]:
        return manifest.committed(self.store, f"{self.prefix}-{kind}/")


@pytest.fixture(scope="module")
def cluster(home: Home) -> Home:
    start_kubernetes(home)
    s3.start_s3(home)
    return home


@pytest.fixture
def platform(
    cluster: Home, seventeen: PostgresServer, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Platform]:
    connections = {
        "POSTGRES": servers.connection_to(seventeen.home, seventeen.name, "upkeep", DATABASE),
        "S3": s3.connection_to(cluster),
        "BACKUP_S3": s3.connection_to(cluster),
        "BACKUP_KEY": {"conn_type": "generic", "password": "ab" * 32},
        "KUBERNETES": cluster.state()["connections"]["studyspot_kubernetes"],
    }
    for name, connection in connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_STUDYSPOT_{name}", json.dumps(connection))
    made = Platform(cluster, ledger, tmp_path)
    for name, value in {
        "PLATFORMS": made.file.parent, "SPOOL": tmp_path / "spool", "HOST_ROOT": made.host,
        "POSTGRES_PROGRAMS": json.dumps([str(binaries.postgres(17))]),
    }.items():  # fmt: skip
        monkeypatch.setenv(f"UPKEEP_{name}", str(value))
    settings.cache_clear()
    yield made
    settings.cache_clear()


def execute(kind: Any, *, unusable: Any = None, **how: Any) -> Any:
    task = kind(task_id=kind.__name__, platform="studyspot", **how)
    ti = SimpleNamespace(
        dag_id="studyspot_backup", run_id="r", task_id=task.task_id, map_index=-1, try_number=1, max_tries=0,
        log_url="", xcom_pull=lambda task_ids, key: unusable,
    )  # fmt: skip
    return task.execute({"ti": ti})


def open_findings(ledger: Ledger) -> dict[str, str]:
    rows = ledger.rows("select key, summary from findings where state = 'open'")
    return {row["key"].removeprefix("studyspot/"): row["summary"] for row in rows}


def test_files_are_copied_and_a_storm_waits_for_a_yes(platform: Platform, ledger: Ledger) -> None:
    for n in range(20):
        platform.files.put(f"f{n:02}", b"content %d" % n)
    assert execute(BackupFilesOperator) == OK
    assert len(platform.committed("files")) == 1
    for n in range(6):
        platform.files.delete(f"f{n:02}")
    with pytest.raises(
        AirflowFailException, match=r"P1 backup_files files: nothing was copied: 6 of 20 files \(30.0%\)"
    ):
        execute(BackupFilesOperator)
    assert len(platform.committed("files")) == 1
    (hint,) = ledger.rows("select hint from findings where state = 'open'")
    (plan,) = ledger.rows("select digest from plans where items -> 0 ->> 'verdict' = 'stop'")
    assert f"`approve_plan` = {plan['digest']}" in hint["hint"]
    with pytest.raises(AirflowFailException, match="no plan about backups of studyspot has the digest"):
        execute(BackupFilesOperator, approve_plan="f" * 64)
    assert execute(BackupFilesOperator, approve_plan=plan["digest"]) == OK
    assert open_findings(ledger) == {}
    (row,) = ledger.rows("select after from actions where verb = 'copy' order by id desc limit 1")
    assert (row["after"]["files"], row["after"]["copied"]) == (14, 0)


def test_a_bucket_that_is_not_there_is_told_and_over_when_it_is(
    platform: Platform, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = platform.content["backup"]["files"]["bucket"]
    platform.content["backup"]["files"]["bucket"] = "no-such-bucket"
    platform.write()
    with pytest.raises(AirflowFailException, match="no backup of the files was made: s3://no-such-bucket/"):
        execute(BackupFilesOperator)
    platform.content["backup"]["files"]["bucket"] = name
    platform.write()
    platform.files.put("a", b"a")
    assert execute(BackupFilesOperator) == OK
    assert open_findings(ledger) == {}


def test_the_configuration_is_archived_and_what_is_missing_is_told(platform: Platform, ledger: Ledger) -> None:
    assert execute(BackupConfigurationOperator) == OK
    (id,) = platform.committed("configuration")
    (row,) = ledger.rows("select kind, content_state, content_facts from backups")
    assert (row["kind"], row["content_state"]) == ("configuration", "verified")
    platform.content["backup"]["configuration"]["paths"] = ["/etc/studyspot", "/opt/none"]
    platform.write()
    with pytest.raises(AirflowFailException, match=r"P1 .*the archive is not whole: /opt/none: no such file"):
        execute(BackupConfigurationOperator)
    assert len(platform.committed("configuration")) == 2, "what there is is kept"
    platform.content["backup"]["configuration"]["paths"] = ["/etc/studyspot"]
    (platform.host / "etc/studyspot/db.env").write_text("PASSWORD=hunter2\n")
    platform.write()
    assert execute(BackupConfigurationOperator) == {"ok": 0, "finding": 1, "unknown": 0}
    assert open_findings(ledger)["backup_configuration/configuration"] == (
        "secrets are not in the archive, because nothing is encrypted: hosts/etc/studyspot/db.env"
    )
    platform.content["backup"]["encryption"] = "aes-256-gcm"
    platform.write()
    assert execute(BackupConfigurationOperator) == OK
    assert open_findings(ledger) == {}
    (after,) = ledger.rows("select after from actions order by id desc limit 1")
    assert id < after["after"]["id"]


def test_retention_marks_deletes_and_asks(platform: Platform, ledger: Ledger) -> None:
    young = [platform.database.make(n * DAY) for n in (0.1, 1)]
    old = [platform.database.make(n * DAY) for n in (400, 401)]
    both = {"ok": 4, "finding": 0, "unknown": 0}
    platform.content["backup"]["generations"] = {"daily": 0, "weekly": 0, "monthly": 0}
    platform.write()
    assert execute(BackupRetentionOperator, dry_run="true") == both
    assert ledger.rows("select from actions") == []
    assert execute(BackupRetentionOperator) == both
    for id in old:
        row = platform.database.row(id)
        platform.database.found(id, marked_at=row["marked_at"] - 2 * DAY)
    assert execute(BackupRetentionOperator) == both
    assert platform.committed("database") == sorted(young)
    for n in (500, 501, 502):
        platform.database.make(n * DAY)
    with pytest.raises(AirflowFailException, match=r"P2 .*nothing more is deleted: 3 of 5 backups are past their time"):
        execute(BackupRetentionOperator)
    (plan,) = ledger.rows(
        "select digest from plans, jsonb_array_elements(items) as i where i ->> 'verdict' = 'mark' and"
        " i ->> 'kind' = 'database' order by created_at desc limit 1"
    )
    assert execute(BackupRetentionOperator, approve_plan=plan["digest"]) == both
    assert len(ledger.rows("select from backups where marked_at is not null and deleted_at is null")) == 3


def test_freshness_is_looked_at_and_whether_tonights_backup_could_be_made(
    platform: Platform, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.files.put("a", b"a")
    for kind in (BackupFilesOperator, BackupConfigurationOperator):
        execute(kind)
    ledger.connection.execute("update runs set first_seen_at = now() - interval '9 days'")
    with pytest.raises(
        AirflowFailException, match=r"P1 backup_age database: no backup of the database at all, in the 9"
    ):
        execute(BackupFreshnessOperator)
    assert set(open_findings(ledger)) == {"backup_age/database", "backup_verified/database"}
    platform.database.make(0.1 * DAY)
    assert execute(BackupFreshnessOperator) == {"ok": 9, "finding": 0, "unknown": 0}
    assert open_findings(ledger) == {}
    away = {"postgres": "postgres_connect: refused"}
    assert execute(BackupFreshnessOperator, unusable=away) == {"ok": 8, "finding": 0, "unknown": 1}
    monkeypatch.setenv("UPKEEP_POSTGRES_PROGRAMS", "[]")
    monkeypatch.setattr(programs, "USUAL", ())
    monkeypatch.setenv("PATH", "/nowhere")
    settings.cache_clear()
    with pytest.raises(
        AirflowFailException, match=r"P1 backup_client: there is no pg_dump on this worker; the server is"
    ):
        execute(BackupFreshnessOperator)
