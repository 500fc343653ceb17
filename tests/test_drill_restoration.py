"""A backup restored as a drill: timed, judged, on a page; one that is broken, cut off or stale fails it, and why."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from sandbox.servers import postgres as servers
from sandbox.servers import s3
from tests.backup_server import BackupServer
from tests.drill_platform import connect, execute, page, write
from tests.postgres_server import DATABASE
from upkeep.backup import manifest, records
from upkeep.backup import verdicts as verdicts_
from upkeep.backup.dump import ARCHIVE
from upkeep.backup.faults import Fault
from upkeep.drill import record, restoration
from upkeep.drill.operators import RestorationDrillOperator
from upkeep.ledger import Ledger
from upkeep.settings import settings


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
    connect(
        monkeypatch,
        POSTGRES=servers.connection_to(filled.home, filled.name, "upkeep", DATABASE),
        BACKUP_S3=s3.connection_to(filled.home),
    )
    scratch = Path("/tmp") / f"up-{tmp_path.name[-6:]}"
    write(
        tmp_path, monkeypatch, scratch, filled.directories[0],
        postgres={"queries": [{"name": "users", "sql": "select count(*) from users", "at_least": 1}]},
        backup={"bucket": "studyspot-backups", "database": {"prefix": filled.prefix}},
    )  # fmt: skip
    yield filled
    settings.cache_clear()
    if scratch.exists():
        assert list(scratch.iterdir()) == [], "nothing is left"
        scratch.rmdir()
    for one in list(filled.store.objects(filled.prefix)):
        filled.store.delete(one.key)


def rehearse(which: Any = "newest") -> Any:
    return execute(RestorationDrillOperator(task_id="restoration", platform="studyspot", which=which))


def row(ledger: Ledger) -> dict[str, Any]:
    return ledger.rows("select * from drills order by id desc limit 1")[0]


def verdicts(ledger: Ledger) -> tuple[str, str, str]:
    last = row(ledger)
    return last["act_verdict"], last["validation_verdict"], last["cleanup_verdict"]


def test_the_newest_backup_is_restored_timed_and_on_a_page(
    server: BackupServer, ledger: Ledger, tmp_path: Path
) -> None:
    backup = server.back_up()
    began = datetime.now(UTC)
    assert rehearse() == {"ok": 5, "finding": 0, "unknown": 0}
    took = (datetime.now(UTC) - began).total_seconds()
    last = row(ledger)
    assert verdicts(ledger) == ("passed", "passed", "passed")
    assert 0 < last["rto_s"] < took
    assert (began - backup.started).total_seconds() < last["rpo_s"] < took + (began - backup.started).total_seconds()
    names = {phase["name"] for phase in last["phases"]}
    assert names >= {"decide", "find", "fetch", "provision", "load", "verify content", "verify questions", "remove"}
    assert (last["facts"]["used"]["backup"], last["undo"], last["actor"]) == (backup.id, [], "jo")
    shown = page(tmp_path, "restoration")
    for said in (backup.id, *[one.sha256 for one in backup.objects], "Recovery works", "kept"):
        assert said in shown
    assert "<script" not in shown
    assert server.conninfo.split("password=")[1].split()[0] not in shown
    # What the ledger knows of it is not mistaken for a verification.
    assert ledger.rows("select content_state from backups") == []
    assert ledger.rows("select removed_at is not null as gone from scratches") == [{"gone": True}]


def test_an_older_one_is_drawn_by_lot_and_the_same_again(server: BackupServer, ledger: Ledger) -> None:
    first = server.back_up().id
    with pytest.raises(AirflowSkipException, match="there is no older backup yet"):
        rehearse("older")
    ids = [first]
    for _ in range(3):
        # Those of one second are in no order.
        time.sleep(1)
        ids.append(server.back_up().id)
    rehearse("older")
    used = row(ledger)["facts"]["used"]["backup"]
    assert used in ids[:3]
    assert row(ledger)["rpo_s"] is None, "how old it is says nothing about the loss"

    def draw(lot: str) -> str:
        return restoration.choose(ledger, server.subject(""), "older", physical=False, lot=lot).subject.id

    assert draw("r/older") == used
    assert {draw(str(number)) for number in range(40)} == set(ids[:3])
    # What is known to be broken is not taken in earnest: the one before it is, and the loss is the larger for it.
    records.remember(ledger, "b", server.prefix, manifest.read(server.store, server.prefix, ids[3]))
    verdicts_.write(ledger, "studyspot", ids[3], "content", [Fault("rows", "gone")], {})
    assert restoration.choose(ledger, server.subject(""), "newest", physical=False, lot="").subject.id == ids[2]


def flip(server: BackupServer, backup: manifest.Manifest) -> None:
    (one,) = backup.role(ARCHIVE)
    content = bytearray(server.archive(backup))
    content[len(content) // 2] ^= 1
    server.store.put(one.key, bytes(content))


def cut(server: BackupServer, backup: manifest.Manifest) -> None:
    (one,) = backup.role(ARCHIVE)
    server.store.put(one.key, server.archive(backup)[:-1000])


def swap(server: BackupServer, backup: manifest.Manifest) -> None:
    """Consistent in itself, and of another state of the database."""
    server("update users set email = 'somebody' where id = 7")
    try:
        server.forge(backup, server.pg_dump())
    finally:
        server("update users set email = 'user-7@example.com' where id = 7")


@pytest.mark.parametrize(
    ("spoil", "said", "expected"),
    [
        pytest.param(flip, r"was changed or replaced: SHA-256", ("failed", "unknown", "passed"), id="a byte flipped"),
        pytest.param(
            cut,
            r"was cut off: [\d,]+ of [\d,]+ bytes",
            ("failed", "unknown", "passed"),
            id="cut off",
            marks=pytest.mark.soak,
        ),
        pytest.param(swap, r"users has all 2,000 rows", ("passed", "failed", "passed"), id="of another state"),
    ],
)
def test_a_spoilt_backup_fails_the_drill_and_is_named(
    server: BackupServer, ledger: Ledger, spoil: Any, said: str, expected: tuple[str, str, str], tmp_path: Path
) -> None:
    backup = server.back_up()
    spoil(server, backup)
    with pytest.raises(AirflowFailException, match=rf"(?s)P1 drill_restoration newest: drill \d+ .*failed: .*{said}"):
        rehearse()
    assert verdicts(ledger) == expected
    assert row(ledger)["rto_s"] is None
    assert "The drill failed" in page(tmp_path, "restoration")
    if spoil is cut:
        server.back_up()
        rehearse()
        assert ledger.rows("select from findings where state = 'open'") == []


def test_a_stale_backup_misses_the_promise(server: BackupServer, ledger: Ledger, tmp_path: Path) -> None:
    backup = server.back_up()
    old = backup.model_copy(
        update={"started": backup.started - timedelta(days=3), "finished": backup.finished - timedelta(days=3)}
    )
    manifest.commit(server.store, server.prefix, old)
    with pytest.raises(AirflowFailException, match=r"P1 recovery_rpo .*3 d of data would have been lost, and 1 d is"):
        rehearse()
    assert verdicts(ledger) == ("passed", "passed", "passed")
    assert "missed" in page(tmp_path, "restoration")


def test_without_any_backup_there_is_nothing_to_recover_from(server: BackupServer, ledger: Ledger) -> None:
    with pytest.raises(AirflowFailException, match=r"no backup in s3://\S+ can be restored"):
        rehearse()
    assert verdicts(ledger) == ("failed", "unknown", "passed")


def test_one_at_a_time(server: BackupServer, ledger: Ledger) -> None:
    with ledger.exclusive(record.lock("studyspot")) as mine:
        assert mine
        with pytest.raises(AirflowFailException, match="another drill of studyspot is running"):
            rehearse()
    assert ledger.rows("select from drills") == []
