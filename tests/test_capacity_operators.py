"""The task `capacity` of weekly maintenance: a database that really grows, red and green; repeated, and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException

from sandbox.home import REPOSITORY
from sandbox.servers import postgres as servers
from tests.capacity_history import a_year_of, fill
from tests.postgres_server import DATABASE, PostgresServer
from upkeep.capacity.forecasts import newest
from upkeep.capacity.operators import ForecastCapacityOperator, SampleCapacityOperator
from upkeep.ledger import Ledger
from upkeep.platforms import platform
from upkeep.report.gather import gather
from upkeep.report.render import render_html
from upkeep.settings import settings

LEVELS = {f"P{rank}": {"name": f"P{rank}", "respond": "15m", "resolve": "2h"} for rank in range(4)}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> Iterator[Callable[..., None]]:
    """The platform file, with these sections."""

    def write(**sections: Any) -> None:
        severity = {"levels": LEVELS, "paging": "P0", "notify": "P0"}
        content = {"name": "studyspot", "title": "StudySpot", "severity": severity, "capacity": {}, **sections}
        (tmp_path / "studyspot.yaml").write_text(yaml.safe_dump(content))
        settings.cache_clear()

    monkeypatch.setenv("UPKEEP_PLATFORMS", str(tmp_path))
    monkeypatch.setenv("UPKEEP_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setenv("UPKEEP_REPORTS", f"file://{tmp_path / 'reports'}")
    write()
    yield write
    settings.cache_clear()


def task(kind: type[Any], cadence: str, number: int) -> Any:
    """As a worker runs it."""
    ti = SimpleNamespace(
        dag_id=f"studyspot_{cadence}_maintenance", run_id=f"manual__{number}", task_id="capacity", map_index=-1,
        try_number=1, log_url="", xcom_pull=lambda task_ids, key: None, get_task_states=lambda **asked: {},
    )  # fmt: skip
    return kind(task_id="capacity", platform="studyspot").execute({"ti": ti})


def forecast(number: int = 1) -> Any:
    return task(ForecastCapacityOperator, "weekly", number)


def finding(ledger: Ledger, key: str) -> dict[str, Any]:
    (row,) = ledger.rows("select * from findings where key = %s", [f"studyspot/{key}"])
    return row


def test_a_database_that_grows_is_red_until_there_is_room(
    seventeen: PostgresServer, ledger: Ledger, write: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = servers.connection_to(seventeen.home, seventeen.name, "upkeep", DATABASE)
    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_POSTGRES", json.dumps(connection))
    seventeen("create table notes as select repeat('x', 500) as note from generate_series(1, 20000)")
    (size,) = seventeen("select pg_database_size(current_database())")[0]
    step = size / 200
    # Two months of which this is the last day; in twenty more it is full.
    fill(ledger, (size - step * day for day in range(60, 0, -1)), "database_bytes", DATABASE, ends=1)
    limits = {"storage": f"{round((size + 20 * step) / 0.9)}B"}
    write(postgres={}, capacity={"limits": limits})
    task(SampleCapacityOperator, "daily", 1)
    forecast(1)
    red = finding(ledger, f"capacity_forecast/database_bytes {DATABASE}")
    assert (red["state"], red["severity"]) == ("open", "P3")
    assert 17 <= red["facts"]["days_left"] <= 22
    # A larger volume was bought, and the next day was sampled.
    with ledger.transaction() as database:
        database.execute("update capacity_samples set day = day - 1000")
        database.execute("update capacity_samples set day = day + 999")
    write(postgres={}, capacity={"limits": {"storage": "1TiB"}})
    task(SampleCapacityOperator, "daily", 2)
    forecast(2)
    assert finding(ledger, f"capacity_forecast/database_bytes {DATABASE}")["state"] == "resolved"


def test_what_runs_out_within_days_turns_the_run_red_and_the_report_is_there_all_the_same(
    ledger: Ledger, write: Callable[..., None], tmp_path: Path
) -> None:
    a_year_of(ledger)
    with pytest.raises(AirflowFailException, match=r"P1 capacity_forecast connections: .* full already"):
        forecast()
    states = {row["key"]: row["severity"] for row in ledger.rows("select key, severity from findings")}
    assert states == {
        "studyspot/capacity_forecast/connections": "P1",
        "studyspot/capacity_forecast/volume_share db-0:9100:/var/lib/postgresql": "P3",
        "studyspot/capacity_forecast/topic_bytes attempts.events": "P3",
        "studyspot/capacity_autoscaler/studyspot-api": "P3",
        "studyspot/capacity_requests/studyspot-web/web/cpu": "P4",
        "studyspot/capacity_shrink/memory_share db-0:9100": "P4",
    }
    kept = {(one.metric, one.object): one for one in newest(ledger, "studyspot", _now(ledger))}
    assert len(kept) == 17, "what has no limit is forecast as well"
    users = kept["rows", "users"]
    assert users.error is not None
    assert users.error > 0, "how wrong it was in the back-test stays on record"
    assert users.at(365) is not None
    (shift,) = kept["volume_share", "db-1:9100:/var/lib/postgresql"].shifts
    assert shift[1] == pytest.approx(-0.12, abs=0.02)
    page = (tmp_path / "reports/studyspot/studyspot_weekly_maintenance/manual__1/capacity.html").read_text()
    assert page.count('class="plot"') == 17
    assert "insufficient data: 5 of 14 daily samples" in page
    weekly = gather(ledger, platform("studyspot"), "studyspot_weekly_maintenance", "manual__1", sections=())
    assert b'<a href="capacity.html">' in render_html(weekly), "the run's report leads to it"


def _now(ledger: Ledger) -> Any:
    return ledger.rows("select clock_timestamp() as now")[0]["now"]


def test_an_empty_ledger_is_unknown_and_the_first_forecast_ends_it(ledger: Ledger, write: Callable[..., None]) -> None:
    assert forecast(1) == {"ok": 0, "finding": 0, "unknown": 1, "series": 0}
    assert "no daily sample yet" in finding(ledger, "capacity_forecast")["summary"]
    fill(ledger, [0.3] * 20, "volume_share", "db-0:9100:/", most=1.0)
    assert forecast(2)["unknown"] == 0
    assert finding(ledger, "capacity_forecast")["state"] == "resolved"


def test_said_again_it_replaces_what_the_same_run_said(ledger: Ledger, write: Callable[..., None]) -> None:
    fill(ledger, [0.3] * 20, "volume_share", "db-0:9100:/", most=1.0)
    for _ in range(2):
        forecast(1)
    forecast(2)
    rows = ledger.rows("select run_id, said from capacity_forecasts order by run_id")
    assert rows == [{"run_id": f"manual__{number}", "said": "not full within 20 days"} for number in (1, 2)]


def test_samples_past_their_time_are_dropped(ledger: Ledger, write: Callable[..., None]) -> None:
    from datetime import timedelta

    from upkeep.capacity.samples import forget

    fill(ledger, [0.3] * 100, "volume_share", "db-0:9100:/", most=1.0)
    fill(ledger, [0.3] * 100, "volume_share", "db-0:9100:/", most=1.0, platform="other")
    assert forget(ledger, "studyspot", timedelta(days=30), _now(ledger)) == 69
    rows = ledger.rows("select platform, count(*) as n from capacity_samples group by 1 order by 1")
    assert rows == [{"platform": "other", "n": 100}, {"platform": "studyspot", "n": 31}]


KILLED = """
import sys
sys.path[:0] = ["plugins", "."]
from tests.test_capacity_operators import forecast
forecast()
"""


def test_killed_where_it_writes_it_has_said_nothing_and_the_next_run_says_all(
    ledger: Ledger, write: Callable[..., None]
) -> None:
    fill(ledger, [0.3] * 20, "volume_share", "db-0:9100:/", most=1.0)
    waiting = (
        "select count(*) as n from pg_stat_activity"
        " where wait_event_type = 'Lock' and query like 'delete from capacity_forecasts%%'"
    )
    with psycopg.connect(ledger.connection.info.dsn, password=ledger.connection.info.password) as locks:
        locks.execute("lock table capacity_forecasts in exclusive mode")
        worker = subprocess.Popen([sys.executable, "-c", KILLED], cwd=REPOSITORY, env={**os.environ})
        deadline = time.monotonic() + 90
        while not ledger.rows(waiting)[0]["n"]:
            assert worker.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert ledger.rows("select state from claims") == [{"state": "working"}]
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    assert ledger.rows("select * from capacity_forecasts") == []
    assert forecast()["ok"] == 1
    assert ledger.rows("select count(*) as n from capacity_forecasts") == [{"n": 1}]
    assert ledger.rows("select state from claims order by id") == [{"state": "abandoned"}, {"state": "done"}]
