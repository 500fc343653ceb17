"""The tasks that back up a cluster: made, on record, proved, told when the log has a gap, let go of."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowFailException

from sandbox import processes
from sandbox.home import REPOSITORY
from sandbox.servers import postgres as servers
from sandbox.servers import s3
from tests.backup_server import KEY
from tests.cluster_server import ClusterServer
from tests.conftest import run
from tests.postgres_server import DATABASE
from upkeep.backup import manifest
from upkeep.backup.manifest import folder
from upkeep.backup.physical import archive, expiring, reaching, source
from upkeep.backup.physical.operators import (
    ArchiveLogOperator,
    BackupClusterOperator,
    LogRetentionOperator,
    VerifyClusterOperator,
)
from upkeep.backup.physical.source import BASES
from upkeep.backup.retention import deleting
from upkeep.backup.retention.operators import BackupFreshnessOperator, BackupRetentionOperator
from upkeep.doctor import postgres as doctor
from upkeep.findings import Outcome, Severity
from upkeep.ledger import Ledger
from upkeep.platforms import platform
from upkeep.settings import settings

SERVER = ClusterServer
MADE = Asset("studyspot_cluster_backup")


@pytest.fixture(scope="module")
def filled(each: Callable[..., Any]) -> Iterator[ClusterServer]:
    server: ClusterServer = each(17, ClusterServer).empty()
    server.fill()
    yield server
    server.empty()


@pytest.fixture
def server(
    filled: ClusterServer, ledger_conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ClusterServer]:
    """A platform whose cluster and bucket are the server's."""
    connections = {
        "POSTGRES": servers.connection_to(filled.home, filled.name, "upkeep", DATABASE),
        "BACKUP_S3": s3.connection_to(filled.home),
        "BACKUP_KEY": {"conn_type": "generic", "password": KEY.secret.hex()},
    }
    for name, connection in connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_STUDYSPOT_{name}", json.dumps(connection))
    level = {"respond": "15m", "resolve": "2h"}
    content = {
        "name": "studyspot",
        "title": "StudySpot",
        "severity": {
            "levels": {f"P{rank}": {"name": f"P{rank}", **level} for rank in range(4)}, "paging": "P0", "notify": "P0",
        },
        "postgres": {"queries": [{"name": "users", "sql": "select count(*) from users", "at_least": 1}]},
        "backup": {
            "bucket": "studyspot-backups", "encryption": "aes-256-gcm",
            "cluster": {"prefix": filled.prefix, "checkpoint": "fast", "full_every": "7d"},
        },
    }  # fmt: skip
    (tmp_path / "platforms").mkdir()
    (tmp_path / "platforms" / "studyspot.yaml").write_text(yaml.safe_dump(content))
    for name, value in {
        "PLATFORMS": tmp_path / "platforms", "SPOOL": tmp_path / "spool", "SCRATCH": filled.parent,
        "POSTGRES_PROGRAMS": json.dumps([str(filled.directories[0])]),
    }.items():  # fmt: skip
        monkeypatch.setenv(f"UPKEEP_{name}", str(value))
    settings.cache_clear()
    yield filled
    settings.cache_clear()
    assert list(filled.parent.iterdir()) == []
    filled.forget()


def execute(kind: type[Any], **how: Any) -> Any:
    """The task, as a worker would run it."""
    outlets = {"outlets": [MADE]} if kind is BackupClusterOperator else {}
    task = kind(task_id="task", platform="studyspot", **outlets, **how)
    ti = SimpleNamespace(
        dag_id="studyspot_backup", run_id="r", task_id="task", map_index=-1, try_number=1, max_tries=0, log_url="",
        xcom_pull=lambda **_: None,
    )  # fmt: skip
    outlet_events = {MADE: SimpleNamespace(extra=None)}
    return task.execute({"ti": ti, "run_id": "r", "outlet_events": outlet_events, "triggering_asset_events": None})


def ship() -> Any:
    return execute(ArchiveLogOperator)


GREEN = {"ok": 1, "finding": 0, "unknown": 0}


def test_made_on_record_built_upon_and_proved(server: ClusterServer, ledger: Ledger) -> None:
    ship()
    full = execute(BackupClusterOperator)
    server("insert into audit.log (said) values ('since')")
    second = execute(BackupClusterOperator)
    assert manifest.read(server.store, server.prefix + BASES, second["id"]).facts["base"] == full["id"]
    assert second["bytes"] < full["bytes"] / 2
    server("insert into audit.log (said) values ('later')")
    assert ship()["stretches"] == 1
    # The newest: both of them, and the log.
    assert execute(VerifyClusterOperator, tier="bytes") == GREEN
    assert execute(VerifyClusterOperator, tier="content") == GREEN
    rows = {row["id"]: row for row in ledger.rows("select * from backups")}
    assert set(rows) == {full["id"], second["id"]}
    row = rows[second["id"]]
    assert (row["kind"], row["engine"], row["bytes_state"], row["content_state"]) == (
        "cluster", "basebackup", "verified", "verified",
    )  # fmt: skip
    assert row["content_facts"]["amcheck"] == "every heap and B-tree"
    assert row["content_facts"]["rows"] > 7000
    assert row["content_facts"]["seconds"]["combine"] > 0
    assert execute(BackupFreshnessOperator) == {"ok": 5, "finding": 0, "unknown": 0}
    execute(BackupRetentionOperator)
    assert {one["state"] for one in ledger.rows("select state from actions")} == {"done"}


@pytest.mark.soak
def test_a_gap_is_told_until_there_is_a_new_base_backup(server: ClusterServer, ledger: Ledger) -> None:
    ship()
    server.take(key=KEY)
    for _ in range(3):
        server("insert into audit.log (said) values ('and')")
        server.next_segment()
        ship()
    server.lose(server.stretches()[-2])
    seen = judge(server)
    assert seen.state == "finding"
    assert re.search(r"log segment \S+ \(.*\) is missing: nothing after .* can be recovered", seen.findings[0].summary)
    server.take(key=KEY)
    ship()
    assert judge(server).state == "ok"
    late = datetime.now(UTC) + timedelta(hours=1)
    assert "ago (allowed 15 min)" in judge(server, now=late).findings[0].summary


def judge(server: ClusterServer, **how: Any) -> Outcome:
    found = archive.look(server.store, server.prefix, "studyspot")
    return reaching.judge(found, Severity.P1, most=timedelta(minutes=15), **how)


def test_what_the_server_gave_up_is_told_and_the_next_round_goes_on(server: ClusterServer, ledger: Ledger) -> None:
    ship()
    with source.session(server.conninfo) as connection:
        source.drop(connection, "upkeep")
    server.let_go()
    refused = r"P1 backup_log log: the server no longer has its log from \S+ to \S+: its slot was dropped"
    with pytest.raises(AirflowFailException, match=refused):
        ship()
    server.take(key=KEY)
    ship()
    assert judge(server).state == "ok"


@pytest.mark.soak
def test_the_log_goes_when_no_base_backup_needs_it(server: ClusterServer, ledger: Ledger) -> None:
    ship()
    old = server.take(key=KEY)
    for _ in range(2):
        server("insert into audit.log (said) values ('and')")
        server.next_segment()
        ship()
    new = server.take(key=KEY)
    ship()
    before = server.stretches()
    assert expired(server, ledger).going == [before[0].id], "the rest is needed by the old one"
    deleting.delete(server.store, server.prefix + BASES, old.id)
    dry = expired(server, ledger, dry_run=True)
    assert dry.going == [one.id for one in before[1:3]]
    assert len(server.stretches()) == 3
    unread = folder(server.prefix + BASES, manifest.new_id()) + manifest.NAME
    server.store.put(unread, b"{")
    assert expired(server, ledger).going == [], "nobody knows what that one needs"
    server.store.delete(unread)
    assert execute(LogRetentionOperator) == GREEN
    assert server.stretches() == before[3:]
    assert server.look(new.id, key=KEY) == []
    for one in list(server.store.objects(server.prefix + BASES)):
        server.store.delete(one.key)
    assert expired(server, ledger).why == "there is no base backup: all of the log stays"


def expired(server: ClusterServer, ledger: Ledger, **how: Any) -> expiring.Expired:
    return expiring.carry_out(run(), ledger, server.store, server.prefix, unfinished=timedelta(days=7), **how)


def test_check_names_the_grant_and_the_line(server: ClusterServer) -> None:
    def replication() -> Outcome:
        outcomes = doctor.maintenance(server.conninfo, "studyspot_postgres", platform("studyspot"))
        (outcome,) = [one for one in outcomes if one.check == "replication"]
        return outcome

    assert replication().state == "ok"
    server.replication(on=False)
    hba = Path(server.home.facts(server.name)["data"]) / "pg_hba.conf"
    before = hba.read_text()
    try:
        assert replication().findings[0].hint == "alter role upkeep replication;"
        server.replication(on=True)
        hba.write_text(f"host replication upkeep 127.0.0.1/32 reject\n{before}")
        server.superuser("select pg_reload_conf()")
        processes.wait_until(lambda: replication().state == "finding", 10, "the door to be shut")
        assert "host replication upkeep <address of the workers>/32" in replication().findings[0].hint
    finally:
        server.replication(on=True)
        hba.write_text(before)
        server.superuser("select pg_reload_conf()")
    processes.wait_until(lambda: replication().state == "ok", 10, "the door to be open again")


def test_the_dags_of_a_platform_whose_cluster_is_backed_up(server: ClusterServer) -> None:
    bag = DagBag(str(REPOSITORY / "dags" / "backup.py"))
    assert bag.import_errors == {}
    assert set(bag.dags) == {"studyspot_backup", "studyspot_cluster_verification", "studyspot_cluster_log"}
    nightly = bag.dags["studyspot_backup"]
    assert nightly.get_task("log_retention").upstream_task_ids == {"retention"}
    assert nightly.get_task("watcher").upstream_task_ids == set(nightly.task_ids) - {"watcher"}
