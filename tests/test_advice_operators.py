"""The tasks `statistics` and `settings`: what they keep between runs, what turns them red, what they survive."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from sandbox.servers import postgres as servers
from tests.advice_server import AdviceServer
from tests.postgres_server import DATABASE
from upkeep.connections import postgres_standbys
from upkeep.ledger import Ledger
from upkeep.platforms import platform as load
from upkeep.postgres.advice import look
from upkeep.postgres.advice.operators import AdviceOperator
from upkeep.postgres.advice.reports import REPORTS
from upkeep.report.gather import gather
from upkeep.report.render import render_html
from upkeep.settings import ROOT, settings

SERVER = AdviceServer

LEVELS = {f"P{rank}": {"name": f"P{rank}", "respond": "15m", "resolve": "2h"} for rank in range(4)}


@pytest.fixture
def platform(
    seventeen: AdviceServer, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[AdviceServer]:
    """A platform whose database is PostgreSQL 17."""
    content = {
        "name": "studyspot",
        "title": "StudySpot",
        # Nothing is sent from here.
        "severity": {"levels": LEVELS, "paging": "P0", "notify": "P0"},
        "postgres": {"advice": {"slow_query": "10ms"}},
    }
    (tmp_path / "studyspot.yaml").write_text(yaml.safe_dump(content))
    connect(seventeen, monkeypatch)
    monkeypatch.setenv("UPKEEP_PLATFORMS", str(tmp_path))
    monkeypatch.setenv("UPKEEP_SPOOL", str(tmp_path / "spool"))
    settings.cache_clear()
    yield seventeen
    settings.cache_clear()


def connect(server: AdviceServer, monkeypatch: pytest.MonkeyPatch, **extra: Any) -> dict[str, Any]:
    connection = servers.connection_to(server.home, server.name, "upkeep", DATABASE)
    connection["extra"] |= extra
    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_POSTGRES", json.dumps(connection))
    return connection


def advise(week: int, area: str = "statistics", unusable: Any = None) -> Any:
    """One task of one weekly run, as a worker would run it."""
    ti = SimpleNamespace(
        dag_id="studyspot_weekly_maintenance", run_id=f"week {week}", task_id=area, map_index=-1, try_number=1,
        log_url="", xcom_pull=lambda task_ids, key: unusable,
    )  # fmt: skip
    task = AdviceOperator(task_id=area, area=area, platform="studyspot")
    return task.execute({"ti": ti})  # type: ignore[typeddict-item]


def calls(ledger: Ledger, week: int) -> list[int]:
    """How often the statement was called, as each look of that week's run saw it."""
    rows = ledger.rows(
        "select facts from outcomes where run_id = %s and check_name = 'postgres_slow_queries' order by id",
        [f"week {week}"],
    )
    statements = [{row["statement"]: row["calls"] for row in each["facts"]["by_total_time"]} for each in rows]
    return [each.get("select pg_sleep($1) as nap", 0) for each in statements]


def test_each_week_is_told_by_itself_also_when_a_run_is_repeated(platform: AdviceServer, ledger: Ledger) -> None:
    for week, naps in ((1, 3), (2, 2)):
        for _ in range(naps):
            platform("select pg_sleep(0.001) as nap")
        advise(week)
    assert [calls(ledger, 1), calls(ledger, 2)] == [[3], [2]]
    platform("select pg_sleep(0.001) as nap")
    assert advise(2)["unknown"] == 0
    assert calls(ledger, 2) == [2, 3], "it compares with the first week again"
    advise(3)
    assert calls(ledger, 3) == [0], "and the third with the repeated second"
    kinds = ledger.rows("select distinct kind from snapshots order by kind")
    assert [row["kind"] for row in kinds] == [
        "checkpoints", "database", "ids", "indexes", "sequences", "statements", "tables",
    ]  # fmt: skip
    (size,) = ledger.rows("select count(*) as n from samples where metric = 'postgres_database_bytes'")
    assert size["n"] == 4


def test_a_setting_that_can_lose_the_database_turns_the_run_red(platform: AdviceServer, ledger: Ledger) -> None:
    assert advise(1, "settings") == {"ok": 4, "finding": 0, "unknown": 0}
    platform.administer("alter system set fsync = off", "select pg_reload_conf()", "select pg_sleep(0.2)")
    try:
        with pytest.raises(AirflowFailException, match=r"^P0: .*\nP0 postgres_settings fsync: fsync = off \("):
            advise(2, "settings")
    finally:
        platform.administer("alter system reset all", "select pg_reload_conf()", "select pg_sleep(0.2)")
    advise(3, "settings")
    rows = ledger.rows("select key, state from findings order by key")
    assert {row["key"]: row["state"] for row in rows}["studyspot/postgres_settings/fsync"] == "resolved"


def test_one_report_that_cannot_look_leaves_the_others_alone(platform: AdviceServer, ledger: Ledger) -> None:
    platform("create sequence s")
    with platform.session("alter sequence s restart 5"), pytest.raises(AirflowFailException, match="lock timeout"):
        advise(1)
    rows = ledger.rows("select check_name, state from outcomes where run_id = 'week 1'")
    states = {row["check_name"]: row["state"] for row in rows}
    assert states.pop("postgres_sequences") == "unknown"
    assert "unknown" not in states.values()
    assert len(states) >= 10
    assert advise(2)["unknown"] == 0


def test_what_makes_the_task_pointless_is_said(platform: AdviceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AirflowSkipException, match="the database cannot be used: postgres_connect: refused"):
        advise(1, unusable={"postgres": "postgres_connect: refused"})
    with pytest.raises(AirflowFailException, match="no area 'weather' of advice"):
        advise(1, "weather")
    connection = connect(platform, monkeypatch)
    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_POSTGRES", json.dumps({**connection, "password": "wrong"}))
    with pytest.raises(AirflowFailException, match="the server refused the role"):
        advise(1)


def test_the_report_shows_what_was_listed_as_tables(platform: AdviceServer, ledger: Ledger) -> None:
    platform("create table t (id int primary key, note text)")
    platform("create index t_note on t (note)")
    for _ in range(3):
        platform("select pg_sleep(0.02) as nap, '<b>' as bold")
    advise(1)
    report = gather(ledger, load("studyspot"), "studyspot_weekly_maintenance", "week 1", sections=("postgres",))
    page = render_html(report).decode()
    assert '<td data-is="Statement">select pg_sleep($1) as nap, $2 as bold</td>' in page
    assert '<th class="number">Time share</th>' in page
    assert '<td data-is="Index">public.t_note</td>' in page
    assert page.index("By total time") < page.index("Never scanned"), "what has the most to tell comes first"
    assert "&#34;statement&#34;" not in page, "no JSON for people"
    (facts,) = [check.facts for check in report.checks if check.check == "postgres_slow_queries"]
    assert facts["by_total_time"][0]["calls"] == 3


def test_standbys_are_those_that_the_connection_names(platform: AdviceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert postgres_standbys("studyspot_postgres") == []
    connect(platform, monkeypatch, upkeep_standbys="db-2, db-3:5433")
    second, third = postgres_standbys("studyspot_postgres")
    assert "host=db-2" in second
    assert f"port={platform.home.facts(platform.name)['port']}" in second
    assert "host=db-3" in third
    assert "port=5433" in third
    assert "upkeep_standbys" not in third


def test_every_question_is_asked_as_the_maintenance_role(server: AdviceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = set()

    def query(name: str) -> str:
        asked.add(name.removeprefix("advice/"))
        return (ROOT / "include" / "sql" / "postgres" / f"{name}.sql").read_text()

    monkeypatch.setattr(look, "query", query)
    server("create table orders (id int primary key, customer int)")
    server("insert into orders select i, i % 5000 from generate_series(1, 30000) as i")
    server("analyze orders")
    for _ in range(12):
        server("select * from orders where customer = 7")
    for area, reports in REPORTS.items():
        for report in reports:
            outcomes = server.report(report, area=area).values()
            assert [outcome.reason for outcome in outcomes if outcome.state == "unknown"] == []
    files = {file.stem for file in (ROOT / "include" / "sql" / "postgres" / "advice").glob("*.sql")}
    other_version = {"checkpoints_16" if server.version >= 17 else "checkpoints"}
    assert files - asked == other_version
    assert server.superuser("select rolsuper from pg_roles where rolname = 'upkeep'") == [(False,)]
