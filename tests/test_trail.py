"""The trail: everything that is over is in it once, and whatever is changed afterwards shows."""

from __future__ import annotations

import json
import multiprocessing
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException

from sandbox.home import Home
from sandbox.servers import s3
from tests.alerts_inbox import bad
from tests.conftest import run
from tests.dying import die_at
from tests.retention_server import bucket as s3_bucket
from upkeep import __main__
from upkeep.backup.store import Store
from upkeep.findings import ok
from upkeep.incident.record import declare, note
from upkeep.ledger import Ledger, waivers
from upkeep.platforms import platform
from upkeep.settings import settings
from upkeep.trail import chain
from upkeep.trail.chain import Seen, look, seal
from upkeep.trail.facts import SOURCES
from upkeep.trail.operators import TrailOperator
from upkeep.trail.witness import disagreements, leave, witnesses

KEY = "studyspot/redis_memory"


def act(ledger: Ledger, number: int = 1) -> None:
    """One plan and one action that ended well."""
    plan = ledger.plan(run(number), "vacuum", [{"table": f"public.t{number}"}])
    with ledger.action(run(number), "vacuum", "vacuum", f"public.t{number}", plan=plan) as action:
        action.after["bytes"] = 8192 * number


def live(ledger: Ledger) -> None:
    """A little of everything that people will ask about."""
    for number in range(1, 4):
        act(ledger, number)
    ledger.record(run(), [bad()])
    waivers.waive(ledger, KEY, owner="Ada", reason="the cache moves on Friday", length=timedelta(days=7))
    incident, _ = declare(ledger, platform("studyspot"), bad().worst, "Checkout is slow", actor="Ada")
    note(ledger, incident.id, "Ada", "said", "the new index is missing")
    with ledger.transaction() as connection:
        connection.execute(
            "insert into deletions (id, platform, relation, plan, cut_off, key_column, condition, from_key, to_key,"
            " rows, deleted_at, dag_id, run_id) values (gen_random_uuid(), 'studyspot', 'public.bookings',"
            " repeat('a', 64), now(), 'id', '', '1', '500', 500, now(), 'd', 'r')"
        )


def change(ledger: Ledger, statement: str, *tables: str) -> None:
    """As somebody who owns the ledger and stops at nothing."""
    with ledger.transaction() as connection:
        for table in tables:
            connection.execute(f"alter table {table} disable trigger user")
        changed = connection.execute(statement)
        assert changed.rowcount
        for table in tables:
            connection.execute(f"alter table {table} enable trigger user")


def rows(ledger: Ledger) -> list[dict[str, Any]]:
    return ledger.rows("select * from trail order by number")


def whole(ledger: Ledger) -> Seen:
    seen = look(ledger)
    assert seen.breaks == ()
    return seen


# -- sealing -------------------------------------------------------------------------------------------------


def test_everything_that_is_over_is_sealed_once(ledger: Ledger) -> None:
    live(ledger)
    count = seal(ledger)
    assert seal(ledger) == 0
    sealed = rows(ledger)
    assert [row["number"] for row in sealed] == list(range(1, count + 1))
    assert {row["source"] for row in sealed} == {
        "plans", "actions", "finding_events", "waivers", "timeline", "deletions",
    }  # fmt: skip
    seen = whole(ledger)
    assert (seen.facts, seen.head.number if seen.head else 0) == (count, count)


def test_what_goes_on_is_sealed_again_however_late(ledger: Ledger) -> None:
    live(ledger)
    plan = ledger.plan(run(9), "vacuum", [])
    with ledger.action(run(9), "vacuum", "vacuum", "public.t9", plan=plan):
        seal(ledger)
        assert sum(row["source"] == "actions" for row in rows(ledger)) == 3, "it is not over"
    assert seal(ledger) == 1
    # Days later.
    change(ledger, "update waivers set starts_at = starts_at - interval '3 days'")
    with ledger.transaction() as connection:
        connection.execute("alter table trail disable trigger user")
        connection.execute("truncate trail")
        connection.execute("alter table trail enable trigger user")
        connection.execute("delete from watermarks where name like 'trail/%'")
    seal(ledger)
    (waiver,) = ledger.rows("select id from waivers")
    assert waivers.take_back(ledger, waiver["id"], "Grace")
    ledger.record(run(2), [ok("redis_memory", bad().worst)])
    assert seal(ledger) == 2, "the waiver that ended, the finding that was resolved"
    whole(ledger)
    assert [row["version"] for row in rows(ledger) if row["source"] == "waivers"] == ["", "Grace"]


def test_more_than_one_turn_takes_is_sealed_in_several(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "MOST_AT_ONCE", 4)
    for number in range(1, 11):
        act(ledger, number)
    turns = []
    while turned := seal(ledger):
        turns.append(turned)
    assert turns == [8, 8, 4]
    whole(ledger)


def test_eight_at_once_make_one_chain(ledger_conninfo: str, ledger: Ledger) -> None:
    for number in range(1, 20):
        act(ledger, number)

    def work(_: int) -> int:
        with Ledger(ledger_conninfo) as own:
            return seal(own)

    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(work, range(8)))
    assert sum(counts) + seal(ledger) == 38
    whole(ledger)


def _sealing(conninfo: str, at: str) -> None:
    die_at(chain, at, count=2)
    with Ledger(conninfo) as own:
        seal(own)


@pytest.mark.parametrize("at", ["_new", "_append", "_set_mark"])
def test_killed_in_the_middle_nothing_is_sealed_and_the_next_turn_seals_all(
    at: str, ledger_conninfo: str, ledger: Ledger
) -> None:
    live(ledger)
    process = multiprocessing.get_context("fork").Process(target=_sealing, args=(ledger_conninfo, at))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert rows(ledger) == []
    assert seal(ledger)
    whole(ledger)


def test_it_is_the_same_in_every_time_zone(ledger_conninfo: str, ledger: Ledger) -> None:
    live(ledger)
    ledger.connection.execute("set timezone = 'Asia/Kolkata'")
    seal(ledger)
    ledger.connection.execute("set timezone = 'America/St_Johns'")
    whole(ledger)
    with Ledger(ledger_conninfo) as other:
        whole(other)
        assert seal(other) == 0


# -- what shows ------------------------------------------------------------------------------------------------

TAMPERED: dict[str, tuple[str, tuple[str, ...], str]] = {
    "an action says it freed more": (
        "update actions set after = '{\"bytes\": 1}' where object = 'public.t2'", (),
        r"actions \d+ says something else",
    ),
    "an action's end is moved": (
        "update actions set ended_at = ended_at - interval '1 day' where object = 'public.t2'", (),
        r"actions \d+ says something else",
    ),
    "an action never was": ("delete from actions where object = 'public.t2'", (), r"actions \d+ is gone"),
    "a deletion never was": ("delete from deletions", (), r"deletions [0-9a-f-]+ is gone"),
    "a deletion was smaller": ("update deletions set rows = 5", (), r"deletions .* says something else"),
    "a finding was milder": ("update finding_events set severity = 'P4'", (), r"finding_events \d+ says something"),
    "another gave the waiver": ("update waivers set owner = 'Bob'", (), r"waivers \d+ says something else"),
    "a plan is put there afterwards": (
        "insert into plans (platform, capability, dag_id, run_id, task_id, items, digest, created_at)"
        " values ('studyspot', 'vacuum', 'd', 'r', 't', '[]', 'x', now() - interval '2 days')", (),
        r"plans .* was written or changed after",
    ),
    "a line of a timeline": (
        "update timeline set hash = repeat('0', 64) where number = 2", ("timeline",),
        r"timeline studyspot-1/2 says something else",
    ),
    "a row of the trail": (
        "update trail set digest = repeat('0', 64) where number = 3", ("trail",), r"row 3 of the trail is not what was",
    ),
    "rows of the trail": ("delete from trail where number between 2 and 3", ("trail",), r"rows 2 to 3 .* gone"),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERED)
def test_whatever_is_changed_afterwards_shows(what: str, ledger: Ledger) -> None:
    statement, guarded, says = TAMPERED[what]
    live(ledger)
    seal(ledger)
    # Sealed days ago: what is dated before that comes too late.
    whole(ledger)
    change(ledger, statement, *guarded)
    seal(ledger)
    breaks = look(ledger).breaks
    assert breaks
    assert any(re.search(says, said) for said in breaks), breaks


def test_nobody_changes_the_trail_by_mistake(ledger: Ledger) -> None:
    live(ledger)
    seal(ledger)
    for statement in ("update trail set number = number + 1", "delete from trail", "truncate trail"):
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            ledger.connection.execute(statement)


def test_every_source_can_be_sealed(ledger: Ledger) -> None:
    """Each query runs, and names columns that exist."""
    for facts in SOURCES.values():
        assert ledger.rows(f"select * from ({facts.query}) as f limit 1") == []


# -- witnesses ---------------------------------------------------------------------------------------------------


@pytest.fixture
def store(home: Home) -> Store:
    s3.start_s3(home)
    client, _ = s3_bucket(home)
    name = f"trail-{uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    return Store(client, name)


def forged(ledger: Ledger) -> None:
    """Somebody changes a fact and seals everything anew, from the first row on."""
    change(ledger, "update actions set reason = 'all was well' where object = 'public.t2'")
    with ledger.transaction() as connection:
        connection.execute("alter table trail disable trigger user")
        connection.execute("truncate trail")
        connection.execute("alter table trail enable trigger user")
        connection.execute("delete from watermarks where name like 'trail/%'")
    seal(ledger)


def against(ledger: Ledger, store: Store) -> list[str]:
    return list(disagreements(ledger, witnesses(store)))


def test_a_chain_that_was_forged_from_its_first_row_is_whole_and_contradicts_its_witness(
    ledger: Ledger, store: Store
) -> None:
    live(ledger)
    seal(ledger)
    head = whole(ledger).head
    assert head is not None
    leave(store, head, datetime.now(UTC))
    act(ledger, 7)
    seal(ledger)
    assert against(ledger, store) == []
    forged(ledger)
    whole(ledger)
    (said,) = against(ledger, store)
    assert said.startswith(f"row {head.number} of the trail is another than a witness of")


def test_a_chain_whose_end_was_cut_contradicts_its_witness(ledger: Ledger, store: Store) -> None:
    live(ledger)
    seal(ledger)
    head = whole(ledger).head
    assert head is not None
    leave(store, head, datetime.now(UTC))
    change(ledger, f"delete from trail where number = {head.number}", "trail")
    assert f"the trail has no row {head.number}, which a witness of" in against(ledger, store)[0]


def test_a_witness_that_was_overwritten_is_named(ledger: Ledger, store: Store) -> None:
    live(ledger)
    seal(ledger)
    head = whole(ledger).head
    assert head is not None
    address = leave(store, head, datetime.now(UTC))
    key = address.split("/", 3)[3]
    for content in (b"", b"{}", b'{"number": "x"}', b"\xff", b"[" * 5000):
        store.put(key, content)
        assert against(ledger, store) == [f"{address} is no witness any longer"]


# -- the task and the command ------------------------------------------------------------------------------------


@pytest.fixture
def watched(
    home: Home, store: Store, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    clocks = {f"P{rank}": {"name": f"P{rank}", "respond": "15m", "resolve": "2h"} for rank in range(4)}
    content = {
        "name": "studyspot",
        "title": "StudySpot",
        "severity": {"levels": clocks, "paging": "P0", "notify": "P0"},
        "backup": {"bucket": store.bucket, "files": {"bucket": "files-of-studyspot", "prefix": "files/"}},
    }
    file = tmp_path / "platforms" / "studyspot.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_BACKUP_S3", json.dumps(s3.connection_to(home)))
    monkeypatch.setenv("UPKEEP_PLATFORMS", str(file.parent))
    monkeypatch.setenv("UPKEEP_SPOOL", str(tmp_path / "spool"))
    settings.cache_clear()
    yield file
    settings.cache_clear()


def execute() -> Any:
    ti = SimpleNamespace(
        dag_id="studyspot_backup", run_id=f"manual__{uuid4().hex}", task_id="trail", map_index=-1, try_number=1,
        max_tries=0, log_url="", xcom_push=lambda **_: None, xcom_pull=lambda **_: None,
    )  # fmt: skip
    task = TrailOperator(task_id="trail", platform="studyspot")
    return task.execute({"ti": ti})  # type: ignore[typeddict-item]


def test_the_task_leaves_a_witness_each_night_and_is_red_when_something_was_changed(
    watched: Path, ledger: Ledger, store: Store
) -> None:
    live(ledger)
    assert execute()["ok"] == 1
    assert len(list(witnesses(store))) == 1
    change(ledger, "update actions set after = '{}' where object = 'public.t2'")
    with pytest.raises(AirflowFailException, match="says something else now"):
        execute()
    assert len(list(witnesses(store))) == 1, "no witness of what is broken"
    change(ledger, "update actions set after = '{\"bytes\": 16384}' where object = 'public.t2'")
    assert execute()["ok"] == 1
    states = ledger.rows("select state from outcomes where check_name = 'trail' order by id")
    assert [row["state"] for row in states] == ["ok", "finding", "ok"]


def test_without_the_bucket_it_could_not_look(
    watched: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    live(ledger)
    wrong = {**s3.connection_to(home), "password": "wrong-wrong-wrong"}
    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_BACKUP_S3", json.dumps(wrong))
    with pytest.raises(Exception, match=r"(?i)could not look|refused|denied|signature|403"):
        execute()


def test_the_command_says_whether_it_is_whole(
    watched: Path, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main(["verify-trail"]) == 0
    said = capsys.readouterr().out
    assert "the trail is empty" in said
    assert "studyspot has no witness in" in said
    live(ledger)
    execute()
    capsys.readouterr()
    assert __main__.main(["verify-trail"]) == 0
    said = capsys.readouterr().out
    assert "witness  1 witness in" in said
    assert "without Object Lock" in said
    assert "the trail is whole: " in said
    change(ledger, "delete from actions where object = 'public.t2'")
    assert __main__.main(["verify-trail"]) == 1
    said = capsys.readouterr().out
    assert "BROKEN   actions " in said
    assert "the trail is BROKEN in 1 places" in said
    assert __main__.main(["verify-trail", "--json"]) == 1
    said = capsys.readouterr().out
    # The log of a task's libraries comes first, here alone.
    machine = json.loads(said[said.index("{") :])
    assert machine["whole"] is False
    assert machine["witnesses"][0]["count"] == 1
