"""Windows that were missed are told, with the command that makes up for them, until somebody does."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pendulum
import psycopg
import pytest
import yaml

from sandbox.home import Home
from tests.conftest import fresh_ledger, libpq, run
from upkeep.ledger import Ledger, Run
from upkeep.platforms import platform
from upkeep.platforms.alerting import Window
from upkeep.settings import settings
from upkeep.windows import claims
from upkeep.windows.missed import missed
from upkeep.windows.timetable import due
from upkeep.windows.watch import look_for_missed_windows

NOW = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
DAYS = [datetime(2026, 11, day, 2, tzinfo=UTC) for day in range(10, 21)]
DAILY = "studyspot_daily_maintenance"


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
def one_platform(ledger_conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
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


def serve(ledger: Ledger, days: Iterable[datetime], state: str = "done", task: str = "cleanup") -> None:
    """As if the runs of these windows had been made, each when it was due."""
    for day in days:
        who = Run(platform="studyspot", dag_id=DAILY, run_id=f"scheduled__{day:%Y-%m-%d}", task_id=task)
        number = claims.begin(ledger, who, day, covers=True, alone=True)
        if state != "working":
            claims.end(ledger, number, state)
        with ledger.transaction() as connection:
            connection.execute("update claims set began_at = %s where id = %s", [day, number])


def look(ledger: Ledger, now: datetime = NOW) -> dict[str, Any]:
    return {outcome.object: outcome for outcome in missed(ledger, platform("studyspot"), now)}


def test_served_windows_are_ok_and_a_dag_that_never_served_one_is_not_looked_at(ledger: Ledger) -> None:
    assert look(ledger) == {}
    serve(ledger, DAYS)
    assert {dag_id: outcome.state for dag_id, outcome in look(ledger).items()} == {DAILY: "ok"}


def test_missed_windows_are_found_with_the_command_and_over_once_made_up_for(ledger: Ledger) -> None:
    serve(ledger, [*DAYS[:5], *DAYS[7:]])
    (finding,) = look(ledger)[DAILY].findings
    assert finding.summary == (
        "2 of the last 7 windows not served: 2 (Sun 15 Nov 02:00, Mon 16 Nov 02:00) without a run"
    )
    assert (
        f"`airflow backfill create --dag-id {DAILY} --from-date 2026-11-15T02:00:00+00:00"
        " --to-date 2026-11-16T02:00:00+00:00 --reprocess-behavior failed`"
    ) in finding.hint
    serve(ledger, DAYS[5:6])
    assert look(ledger)[DAILY].findings[0].summary.startswith("1 of the last 7")
    serve(ledger, DAYS[6:7], "covered")
    assert look(ledger)[DAILY].state == "ok"


@pytest.mark.parametrize("state", ["failed", "abandoned", "working"])
def test_a_window_whose_run_went_wrong_is_missed_until_its_work_is_done(ledger: Ledger, state: str) -> None:
    serve(ledger, DAYS[:-1])
    serve(ledger, DAYS[-1:], "done", task="report")
    with ledger.transaction() as connection:
        connection.execute("update claims set state = %s where due_at = %s and task_id = 'cleanup'", [state, DAYS[-2]])
    (finding,) = look(ledger)[DAILY].findings
    assert "1 (Thu 19 Nov 02:00) with a run in which cleanup did not end well, nor since" in finding.summary
    serve(ledger, DAYS[-1:])
    assert look(ledger)[DAILY].state == "ok", "the next window made up for it"


def test_before_the_first_window_and_before_one_is_over_nothing_is_missed(ledger: Ledger) -> None:
    serve(ledger, DAYS[-2:-1])
    assert look(ledger, datetime(2026, 11, 20, 3, 59, tzinfo=UTC))[DAILY].state == "ok", "this one may still come"
    assert look(ledger)[DAILY].facts == {"windows": 2, "missed": 1, "undone": 0}


def test_it_is_told_once_and_resolved(ledger: Ledger) -> None:
    serve(ledger, DAYS[:-1])
    by = run(task="deliver")
    assert look_for_missed_windows(ledger, by, now=NOW) == 1
    assert look_for_missed_windows(ledger, by, now=NOW + timedelta(minutes=9)) == 0, "it looks every ten minutes"
    (row,) = ledger.rows("select key, state, severity from findings")
    assert row == {"key": f"studyspot/missed_windows/{DAILY}", "state": "open", "severity": "P3"}
    serve(ledger, DAYS[-1:])
    assert look_for_missed_windows(ledger, by, now=NOW + timedelta(minutes=20)) == 0
    assert [row["state"] for row in ledger.rows("select state from findings")] == ["resolved"]
    before = len(ledger.rows("select 1 from outcomes"))
    look_for_missed_windows(ledger, by, now=NOW + timedelta(minutes=40))
    assert len(ledger.rows("select 1 from outcomes")) == before, "an hour in which all is well leaves no trace"


@pytest.mark.parametrize(
    "until", [datetime(2026, 3, 31, 12, tzinfo=UTC), datetime(2026, 10, 27, 12, tzinfo=UTC)], ids=["spring", "autumn"]
)
@pytest.mark.parametrize("start", ["0 2 * * *", "30 2 * * *", "0 4 * * *"])
def test_a_schedule_is_read_as_airflow_reads_it(start: str, until: datetime) -> None:
    from airflow.timetables.trigger import CronTriggerTimetable

    ours = due(Window(start=start), until, 5, "Europe/Berlin")
    theirs, at = [], CronTriggerTimetable(start, timezone="Europe/Berlin")
    tick = pendulum.instance(ours[0])
    for _ in ours:
        theirs.append(tick)
        tick = at._get_next(tick)
    assert ours == theirs
