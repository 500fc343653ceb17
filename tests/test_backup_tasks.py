"""The tasks of the backup Dags: made, on record, verified; what failed is told once, and what is mended is over."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from sandbox.servers import postgres as servers
from sandbox.servers import s3
from tests.backup_server import KEY, BackupServer
from tests.conftest import run
from tests.postgres_server import DATABASE
from upkeep.backup import manifest, scratch, verdicts
from upkeep.backup.dump import ARCHIVE
from upkeep.backup.operators import BackupDatabaseOperator, SweepScratchOperator, VerifyBackupOperator
from upkeep.backup.programs import ProgramError
from upkeep.ledger import Ledger
from upkeep.settings import settings

SERVER = BackupServer
MADE = Asset("studyspot_database_backup")


@pytest.fixture(scope="module")
def filled(each: Callable[..., Any]) -> Iterator[BackupServer]:
    server: BackupServer = each(17, BackupServer).empty()
    server.fill()
    yield server
    server.empty()


@pytest.fixture
def server(
    filled: BackupServer, ledger_conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BackupServer]:
    """A platform whose database and bucket are the server's."""
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
            "bucket": "studyspot-backups", "database": {"prefix": filled.prefix}, "encryption": "aes-256-gcm",
        },
    }  # fmt: skip
    (tmp_path / "platforms").mkdir()
    (tmp_path / "platforms" / "studyspot.yaml").write_text(yaml.safe_dump(content))
    scratch_parent = Path("/tmp") / f"up-{tmp_path.name[-6:]}"
    for name, value in {
        "PLATFORMS": tmp_path / "platforms", "SPOOL": tmp_path / "spool", "SCRATCH": scratch_parent,
        "POSTGRES_PROGRAMS": json.dumps([str(filled.directories[0])]),
    }.items():  # fmt: skip
        monkeypatch.setenv(f"UPKEEP_{name}", str(value))
    settings.cache_clear()
    yield filled
    settings.cache_clear()
    if scratch_parent.exists():
        scratch_parent.rmdir()
    for one in list(filled.store.objects(filled.prefix)):
        filled.store.delete(one.key)


def execute(task: Any, *, try_number: int = 1, max_tries: int = 0, events: Any = None) -> Any:
    """The task, as a worker would run it."""
    ti = SimpleNamespace(
        dag_id="studyspot_backup", run_id="r", task_id=task.task_id, map_index=-1, try_number=try_number,
        max_tries=max_tries, log_url="",
    )  # fmt: skip
    context = {
        "ti": ti,
        "run_id": "r",
        "outlet_events": {MADE: SimpleNamespace(extra=None)},
        "triggering_asset_events": events,
    }
    result = task.execute(context)
    return (result, context["outlet_events"][MADE].extra) if task.outlets else result


def back_up(**how: Any) -> tuple[dict[str, Any], dict[str, str]]:
    made: tuple[dict[str, Any], dict[str, str]] = execute(
        BackupDatabaseOperator(task_id="database", platform="studyspot", outlets=[MADE]), **how
    )
    return made


def verify(tier: Any, backup: str = "", **how: Any) -> Any:
    return execute(VerifyBackupOperator(task_id=tier, platform="studyspot", tier=tier, backup=backup), **how)


def sweep() -> Any:
    return execute(SweepScratchOperator(task_id="sweep", platform="studyspot"))


def open_findings(ledger: Ledger) -> dict[str, str]:
    rows = ledger.rows("select check_name, summary from findings where state = 'open'")
    return {row["check_name"]: row["summary"] for row in rows}


def test_made_on_record_and_verified_by_both_tiers(server: BackupServer, ledger: Ledger) -> None:
    facts, extra = back_up()
    assert extra == {"id": facts["id"]}
    assert facts["rows"] > 7000
    (row,) = ledger.rows("select * from backups")
    assert (row["id"], row["bytes_state"], row["content_state"]) == (facts["id"], "unchecked", "unchecked")
    events = {MADE: [SimpleNamespace(extra=extra)]}
    assert verify("bytes", events=events) == {"ok": 1, "finding": 0, "unknown": 0}
    assert verify("content", events=events) == {"ok": 1, "finding": 0, "unknown": 0}
    (row,) = ledger.rows("select * from backups")
    assert (row["bytes_state"], row["content_state"]) == ("verified", "verified")
    assert row["content_facts"]["seconds"]["restore"] > 0
    assert [one["removed_at"] is not None for one in ledger.rows("select removed_at from scratches")] == [True]
    assert sweep() == {"ok": 1, "finding": 0, "unknown": 0}
    assert {one["state"] for one in ledger.rows("select state from actions")} == {"done"}


def test_a_broken_one_is_told_and_a_mended_one_is_over(server: BackupServer, ledger: Ledger) -> None:
    facts, _ = back_up()
    whole = manifest.read(server.store, server.prefix, facts["id"])
    (archive,) = whole.role(ARCHIVE)
    content = server.archive(whole)
    server.store.put(archive.key, content[:-1000])
    with pytest.raises(AirflowFailException, match=r"P1 backup_bytes database: backup \S+ is broken: \S+ was cut off"):
        verify("bytes")
    (row,) = ledger.rows("select bytes_state, bytes_reason from backups")
    assert row["bytes_state"] == "broken"
    assert "was cut off" in row["bytes_reason"]
    assert "backup_bytes" in open_findings(ledger)
    server.store.put(archive.key, content)
    verify("bytes")
    assert open_findings(ledger) == {}


def test_a_backup_that_fails_is_told_after_its_last_try_alone(
    server: BackupServer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("upkeep.backup.dump._roles", _fails)
        with pytest.raises(ProgramError, match="pg_dumpall ended with 1"):
            back_up(try_number=1, max_tries=1)
        assert open_findings(ledger) == {}
        with pytest.raises(
            AirflowFailException,
            match="P1 backup database: no backup of the database was made: pg_dumpall ended with 1",
        ):
            back_up(try_number=2, max_tries=1)
    assert open_findings(ledger) == {"backup": "no backup of the database was made: pg_dumpall ended with 1"}
    assert manifest.committed(server.store, server.prefix) == []
    back_up()
    assert open_findings(ledger) == {}


def _fails(*_: Any) -> Any:
    raise ProgramError("pg_dumpall ended with 1", hint="read what it says.")


def test_without_the_ledger_the_backup_is_made_all_the_same(
    server: BackupServer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_UPKEEP_LEDGER", "postgres://upkeep:x@127.0.0.1:1/upkeep")
    facts, _ = back_up()
    assert manifest.committed(server.store, server.prefix) == [facts["id"]]
    monkeypatch.undo()
    assert server.read_back(facts["id"], key=KEY) == []


def test_an_older_one_is_drawn_by_lot(server: BackupServer, ledger: Ledger) -> None:
    task = VerifyBackupOperator(task_id="older", platform="studyspot", tier="bytes", older=True)
    first, _ = back_up()
    with pytest.raises(AirflowSkipException, match="no older backup"):
        execute(task)
    back_up()
    execute(task)
    rows = ledger.rows("select id, bytes_state from backups order by finished_at")
    assert [(row["id"] == first["id"], row["bytes_state"]) for row in rows] == [
        (True, "verified"),
        (False, "unchecked"),
    ]


def test_two_at_once_are_one(server: BackupServer, ledger: Ledger) -> None:
    with ledger.exclusive("backup/studyspot/database") as mine:
        assert mine
        with pytest.raises(AirflowSkipException, match="another backup of this database"):
            back_up()


def test_which_backup_is_chosen_and_what_is_refused(server: BackupServer, ledger: Ledger) -> None:
    with pytest.raises(
        AirflowFailException, match=r"no backup in s3://studyspot-backups/\S+(.|\n)*trigger the backup Dag"
    ):
        verify("bytes")
    for wrong in ("../x", "'; drop table backups", "$(id)"):
        with pytest.raises(Exception, match=r"is not the id of a backup"):
            verify("bytes", wrong)
    with pytest.raises(AirflowFailException, match=r"manifest\.json: not there"):
        verify("bytes", "20200101T000000Z-00000000")


def test_a_wrong_key_is_a_finding_that_names_it(
    server: BackupServer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up()
    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_BACKUP_KEY", json.dumps({"conn_type": "generic", "password": "00" * 32}))
    with pytest.raises(
        AirflowFailException, match=rf"it was encrypted with key {KEY.id}, and the connection holds key"
    ):
        verify("bytes")
    monkeypatch.delenv("AIRFLOW_CONN_STUDYSPOT_BACKUP_KEY")
    with pytest.raises(AirflowFailException, match="no connection 'studyspot_backup_key'"):
        back_up()


def test_what_dead_workers_left_is_removed_here_and_told_elsewhere(server: BackupServer, ledger: Ledger) -> None:
    settings().scratch.mkdir()
    left = settings().scratch / f"{scratch.PREFIX}dead"
    left.mkdir()
    (left / scratch.MARKER).write_text(json.dumps({"platform": "studyspot", "backup": "b"}))
    one, here = run(task="content"), socket.gethostname()
    verdicts.scratch_made(ledger, one, left, here, "b")
    verdicts.scratch_made(ledger, one, Path("/tmp/upkeep-scratch-gone"), here, "b")
    assert sweep() == {"ok": 1, "finding": 0, "unknown": 0}
    assert not left.exists()
    verdicts.scratch_made(ledger, one, Path("/tmp/upkeep-scratch-x"), "worker-7", "b")
    with pytest.raises(
        AirflowFailException, match=r"P1 backup_scratch worker-7: \S+ on worker-7 holds a restored copy"
    ):
        sweep()
    verdicts.scratch_removed(ledger, Path("/tmp/upkeep-scratch-x"), "worker-7")
    sweep()
    assert open_findings(ledger) == {}


def test_a_clean_up_that_fails_fails_the_verification(
    server: BackupServer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, _ = back_up()
    real = scratch.shutil.rmtree
    monkeypatch.setattr(scratch.shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(AirflowFailException, match=r"P1 backup_scratch \S+: \S+ on \S+ could not be removed"):
        verify("content", facts["id"])
    (row,) = ledger.rows("select content_state from backups")
    assert row["content_state"] == "unchecked"
    monkeypatch.setattr(scratch.shutil, "rmtree", real)
    assert sweep() == {"ok": 1, "finding": 0, "unknown": 0}
