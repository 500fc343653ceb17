"""Maintenance windows with a real ledger: work is done once for those it covers, never twice at once, never lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException, AirflowSkipException

from sandbox.home import REPOSITORY, Home
from tests.conftest import fresh_ledger, libpq
from tests.windows_work import Nightly, PerWindow, Task, chosen, context
from upkeep.ledger import Ledger
from upkeep.platforms import platforms
from upkeep.settings import settings
from upkeep.windows.timetable import timetable

DAYS = [datetime(2026, 11, day, 2, tzinfo=UTC) for day in range(10, 17)]
NOTHING: dict[str, str | None] = {}


@pytest.fixture(scope="module")
def kept(control: Home) -> Iterator[dict[str, Any]]:
    with fresh_ledger(control) as made:
        yield made


@pytest.fixture
def ledger_conninfo(kept: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """One ledger for this file, emptied for each test."""
    with psycopg.connect(libpq(kept)) as connection:
        connection.execute("truncate claims, runs, outcomes, findings, finding_events, outbox, watermarks cascade")
    monkeypatch.setenv("AIRFLOW_CONN_UPKEEP_LEDGER", json.dumps(kept))
    return libpq(kept)


@pytest.fixture(autouse=True)
def platform(ledger_conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    content = {
        "name": "studyspot",
        "title": "StudySpot",
        "severity": {
            "levels": {f"P{rank}": {"name": f"P{rank}", "respond": "15m", "resolve": "2h"} for rank in range(4)},
            "paging": "P0",
            "notify": "P0",
        },
    }
    (tmp_path / "platforms").mkdir()
    (tmp_path / "platforms" / "studyspot.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setenv("UPKEEP_PLATFORMS", str(tmp_path / "platforms"))
    monkeypatch.setenv("UPKEEP_SPOOL", str(tmp_path / "spool"))
    settings.cache_clear()
    yield
    settings.cache_clear()


def served(day: datetime, task: Task, **how: Any) -> str:
    """What became of one run's task: ``worked``, or why it did not."""
    try:
        task.execute(context(task, day, **how))
    except AirflowSkipException as skipped:
        return str(skipped)
    return "worked"


@pytest.mark.parametrize("order", [list, lambda days: list(reversed(days)), lambda days: days[3:] + days[:3]])
def test_seven_missed_windows_are_one_piece_of_work_in_any_order(
    ledger: Ledger, order: Callable[[Sequence[datetime]], list[datetime]]
) -> None:
    days = order(DAYS)
    became = [served(day, Nightly()) for day in days]
    assert became[0] == "worked"
    first = f"backfill__{days[0]:%Y-%m-%d}"
    for day, said in zip(days[1:], became[1:], strict=True):
        assert said.startswith(f"covered by {first}, which did this work at ")
        assert said.endswith(f"after this window was due ({day:%d %b} 02:00 UTC)")
    assert [served(day, PerWindow()) for day in days] == ["worked"] * 7
    rows = ledger.rows(
        "select state, covered_by, count(*) as n from claims where covers or covered_by is not null group by 1, 2"
    )
    assert {(row["state"], row["covered_by"], row["n"]) for row in rows} == {("done", None, 1), ("covered", first, 6)}


def test_a_second_round_covers_again_and_a_cleared_run_works_again() -> None:
    assert [served(day, Nightly()) for day in DAYS].count("worked") == 1
    again = [served(day, Nightly()) for day in DAYS[1:]]
    assert all(said.startswith("covered by backfill__2026-11-10") for said in again)
    assert served(DAYS[0], Nightly()) == "worked", "who clears the run that did it wants it done again"


def test_work_that_began_before_a_window_was_due_does_not_cover_it() -> None:
    assert served(DAYS[0], Nightly()) == "worked"
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert served(tomorrow, Nightly(), kind="scheduled") == "worked"


def test_work_by_hand_covers_and_is_never_covered() -> None:
    assert served(DAYS[0], Nightly(), kind="manual", run_id="manual__1") == "worked"
    assert served(DAYS[0], Nightly()).startswith("covered by manual__1")
    assert served(DAYS[0], Nightly(), kind="manual", run_id="manual__2") == "worked"


def test_a_dry_run_covers_nothing_and_what_is_asked_for_is_done() -> None:
    assert served(DAYS[0], Nightly(dry_run=True)) == "worked"
    assert served(DAYS[1], Nightly()) == "worked"
    assert served(DAYS[2], Nightly(), conf={"approve_plan": "abc"}) == "worked"
    assert served(DAYS[3], Nightly(dry_run=True)) == "worked"
    assert served(DAYS[4], Nightly()).startswith("covered by")


def test_what_failed_or_was_skipped_covers_nothing(ledger: Ledger) -> None:
    with pytest.raises(AirflowFailException):
        served(DAYS[0], Nightly(fails=AirflowFailException("a finding")))
    assert served(DAYS[1], Nightly(fails=AirflowSkipException("the database cannot be used"))) != "worked"
    assert served(DAYS[2], Nightly()) == "worked"
    assert served(DAYS[0], Nightly()).startswith("covered by backfill__2026-11-12")
    rows = ledger.rows("select state, reason from claims order by id")
    assert [row["state"] for row in rows] == ["failed", "skipped", "done", "covered"]
    assert rows[0]["reason"] == "AirflowFailException: a finding"


def test_elsewhere_nothing_is_claimed(ledger: Ledger) -> None:
    for _ in range(2):
        assert served(DAYS[0], Nightly(), dag_id="studyspot_health_watch", kind="scheduled") == "worked"
    assert ledger.rows("select * from claims") == []


def test_without_the_ledger_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_UPKEEP_LEDGER")
    assert [served(day, Nightly()) for day in DAYS[:2]] == ["worked"] * 2


# -- two at once, and a dead one -------------------------------------------------------------------------


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Callable[[datetime], Path]]:
    """Another worker in a process of its own that works until its file ``go`` is there; gives its directory."""
    started: list[subprocess.Popen[bytes]] = []

    def start(day: datetime) -> Path:
        command = [sys.executable, "-m", "tests.windows_work", day.isoformat(), str(tmp_path)]
        started.append(subprocess.Popen(command, env={**os.environ, "PYTHONPATH": ".:plugins"}, cwd=REPOSITORY))
        wait_for((tmp_path / "working").exists)
        return tmp_path

    start.processes = started  # type: ignore[attr-defined]
    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_two_at_once_wait_for_each_other(other: Any, ledger: Ledger) -> None:
    where = other(DAYS[0])
    for how in ({}, {"kind": "manual", "run_id": "manual__1"}):
        with pytest.raises(AirflowRescheduleException):
            served(DAYS[1], Nightly(), **how)
    assert [row["state"] for row in ledger.rows("select state from claims")] == ["working"]
    (where / "go").touch()
    assert other.processes[0].wait(60) == 0
    assert served(DAYS[1], Nightly()).startswith("covered by backfill__2026-11-10")


def test_killed_while_it_works_another_takes_over_at_once(other: Any, ledger: Ledger) -> None:
    other(DAYS[0])
    assert [row["state"] for row in ledger.rows("select state from claims")] == ["working"]
    os.kill(other.processes[0].pid, signal.SIGKILL)
    other.processes[0].wait()
    name = "window/studyspot_daily_maintenance/nightly"

    def free() -> bool:
        with ledger.exclusive(name) as mine:
            return mine

    wait_for(free)
    assert served(DAYS[1], Nightly()) == "worked"
    assert served(DAYS[0], Nightly()).startswith("covered by backfill__2026-11-11"), "the dead one's own run"
    rows = ledger.rows("select run_id, state from claims order by id")
    assert [row["state"] for row in rows] == ["abandoned", "done", "covered"]


@pytest.mark.soak
def test_what_goes_on_without_its_lock_is_waited_for(other: Any, ledger: Ledger) -> None:
    where = other(DAYS[0])
    # As after a restart of the ledger: every session is gone, and nobody's work.
    ledger.rows(
        "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and pid <> pg_backend_pid()"
    )
    with pytest.raises(AirflowRescheduleException):
        served(DAYS[1], Nightly(), states={"nightly": "running"})
    (where / "go").touch()
    assert other.processes[0].wait(60) == 0
    assert [row["state"] for row in ledger.rows("select state from claims")] == ["done"], "it says so all the same"
    assert served(DAYS[1], Nightly()).startswith("covered by backfill__2026-11-10")


# -- chosen by one task, carried out by others -----------------------------------------------------------


def test_what_is_chosen_counts_once_it_is_carried_out(ledger: Ledger) -> None:
    assert served(DAYS[0], chosen(2)) == "worked"
    unfinished = {"vacuum_0": "running", "vacuum_1": None}
    with pytest.raises(AirflowRescheduleException):
        served(DAYS[1], chosen(2), states=unfinished)
    for index in (0, 1):
        assert served(DAYS[0], PerWindow(task_id="vacuum"), map_index=index) == "worked"
    assert served(DAYS[1], chosen(2)).startswith("covered by backfill__2026-11-10")


def test_what_was_chosen_and_died_is_chosen_again(ledger: Ledger) -> None:
    assert served(DAYS[0], chosen(2)) == "worked"
    assert served(DAYS[0], PerWindow(task_id="vacuum"), map_index=0) == "worked"
    with pytest.raises(AirflowFailException):
        served(DAYS[0], PerWindow(task_id="vacuum", fails=AirflowFailException("lock")), map_index=1)
    over = {"vacuum_0": "success", "vacuum_1": "failed"}
    assert served(DAYS[1], chosen(1), states=over) == "worked"


def test_nothing_chosen_is_complete() -> None:
    assert served(DAYS[0], chosen(0)) == "worked"
    assert served(DAYS[1], chosen(0)).startswith("covered by backfill__2026-11-10")


# -- the Dags ---------------------------------------------------------------------------------------------


def test_the_timetable_names_the_dags_and_their_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UPKEEP_PLATFORMS")
    settings.cache_clear()
    bag = DagBag(str(REPOSITORY / "dags"))
    served = {dag_id: window for one in platforms() for dag_id, window in timetable(one).items()}
    assert {dag_id: bag.dags[dag_id].schedule for dag_id in served} == {
        dag_id: window.start for dag_id, window in served.items()
    }
    # What runs every few minutes has no windows: "*/5 * * * *".
    rare = {dag.dag_id for dag in bag.dags.values() if str(dag.schedule).split()[1:2] not in (["*"], [])}
    assert {dag_id for dag_id in rare if isinstance(bag.dags[dag_id].schedule, str)} == set(served)
    # Whoever adds a task says here, or by the class's `converging`, what a backfill does with it.
    each_time = {
        task.task_id
        for dag_id in served
        for task in bag.dags[dag_id].tasks
        if not getattr(getattr(task, "operator_class", type(task)), "converging", False)
    }
    assert each_time == {
        *("vacuum", "finish_vacuum", "reindex"),  # what was chosen, so also once
        *("sweep", "backup", "remove"),  # another older backup is verified for each week
        *("prepare", "ask", "settle"),  # around drills, which are done once for every quarter that was missed
        *("report", "watcher"),
    }


def test_what_was_chosen_is_carried_out_before_another_run_asks_for_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UPKEEP_PLATFORMS")
    settings.cache_clear()
    bag = DagBag(str(REPOSITORY / "dags"))
    for cadence, first, then in (("daily", "choose_tables", "vacuum"), ("monthly", "choose_indexes", "reindex")):
        dag = bag.dags[f"studyspot_{cadence}_maintenance"]
        rules = {str(getattr(dag.get_task(task_id), "weight_rule", "")) for task_id in (first, then)}
        assert rules == {"upstream"}, "else those that wait keep the pool's one slot from what they wait for"
