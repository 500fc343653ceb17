"""Seven missed days, made up for by Airflow's own backfill: a whole Airflow, a whole sandbox."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox import __main__ as sandbox
from sandbox import airflow
from sandbox.home import REPOSITORY, Home
from upkeep.ledger import Ledger

pytestmark = [pytest.mark.live, pytest.mark.soak]

SECTIONS = {"name", "title", "owner", "severity", "alerts", "windows", "postgres", "hosts"}
CONVERGING = {"choose_tables", "cleanup", "health", "logs"}


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    """A whole Airflow for two small platforms: a database and hosts, and hosts alone."""
    home = Home(Path(tempfile.mkdtemp(prefix="up-", dir="/tmp")))
    content = yaml.safe_load((REPOSITORY / "include" / "platforms" / "adaptive_learning.yaml").read_text())
    content = {name: section for name, section in content.items() if name in SECTIONS}
    platforms = home.directory("platforms")
    nights = {name: section for name, section in content.items() if name != "postgres"} | {"name": "nights"}
    for one in (content, nights):
        (platforms / f"{one['name']}.yaml").write_text(yaml.safe_dump(one))
    try:
        home.remember("airflow", environment={"UPKEEP_PLATFORMS": str(platforms)})
        sandbox.up(home, only=["postgres.control", "postgres.adaptive_learning", "hosts"], scale=0.02)
        airflow.start(home, timeout_s=600)
        command(home, sys.executable, "-m", "upkeep", "setup")
        yield home
    finally:
        airflow.stop(home)
        sandbox.down(home)
        shutil.rmtree(home.path, ignore_errors=True)


def command(home: Home, *words: Any) -> None:
    env = {**os.environ, **airflow.environment(home)}
    done = subprocess.run(words, env=env, cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]


@pytest.mark.parametrize(
    ("platform", "order", "paused"),
    [("adaptive_learning", [], True), ("nights", ["--run-backwards"], False)],
    ids=["forwards", "backwards"],
)
def test_seven_missed_days_are_backfilled(home: Home, platform: str, order: list[str], paused: bool) -> None:
    dag_id = f"{platform}_daily_maintenance"
    api = airflow.Api(home)
    api.wait_for_dags(dag_id, timeout_s=300)
    if not paused:
        api.unpause(dag_id)
    began = time.monotonic()
    backfill(home, dag_id, *order)
    api.unpause(dag_id)
    runs = finished(api, dag_id)
    seconds = time.monotonic() - began
    assert {run["state"] for run in runs} == {"success"}, not_green(api, dag_id, runs)
    with Ledger(airflow.ledger_conninfo(home)) as ledger:
        rows = ledger.rows(
            "select run_id, task_id, map_index, state, covered_by, reason from claims where dag_id = %s", [dag_id]
        )
        reports = ledger.rows("select report_url from runs where dag_id = %s and report_url is not null", [dag_id])
        caught = ledger.rows("select 1 from findings where check_name = 'missed_windows' and object = %s", [dag_id])
    done = [row["task_id"] for row in rows if row["state"] == "done"]
    expected = CONVERGING & {row["task_id"] for row in rows}
    assert {task: done.count(task) for task in expected} == dict.fromkeys(expected, 1)
    assert expected == (CONVERGING if platform == "adaptive_learning" else CONVERGING - {"choose_tables"})
    covered = [row["task_id"] for row in rows if row["state"] == "covered"]
    assert {task: covered.count(task) for task in expected} == dict.fromkeys(expected, len(runs) - 1)
    assert done.count("report") == len(reports) == len(runs)
    assert len({row["run_id"] for row in rows if row["task_id"] == "vacuum"}) <= 1
    assert caught == []
    row = next(row for row in rows if row["state"] == "covered" and row["task_id"] == "cleanup")
    log = api.log(dag_id, row["run_id"], "cleanup")
    assert row["reason"] in log
    report = api.log(dag_id, row["run_id"], "report")
    assert f"not again  cleanup: covered by {row['covered_by']}, which did this work at" in report
    tables = sum(row["task_id"] == "vacuum" and row["state"] == "done" for row in rows)
    what = f"{len(expected)} tasks and {tables} tables once, {len(reports)} reports"
    print(f"{platform}: {len(runs)} windows in {seconds:.0f} s; {what}")


def backfill(home: Home, dag_id: str, *order: str) -> None:
    """The last seven windows that were due."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    ends = today - timedelta(seconds=1)
    span = ["--from-date", (today - timedelta(days=7)).isoformat(), "--to-date", ends.isoformat()]
    command(home, airflow.COMMAND, "backfill", "create", "--dag-id", dag_id, *span, *order)


def finished(api: airflow.Api, dag_id: str) -> list[dict[str, Any]]:
    """The runs of the seven windows, and of today's, where unpausing has brought that as well."""

    def runs() -> list[dict[str, Any]]:
        return list(api("GET", f"/dags/{dag_id}/dagRuns")["dag_runs"])

    while going := [run for run in runs() if run["state"] not in airflow.FINISHED]:
        api.wait(dag_id, going[0]["dag_run_id"], timeout_s=900)
    kinds = [run["run_type"] for run in runs()]
    assert kinds.count("backfill") == 7
    assert set(kinds) <= {"backfill", "scheduled"}
    return runs()


def not_green(api: airflow.Api, dag_id: str, runs: list[dict[str, Any]]) -> list[str]:
    """What a person would read first."""
    red = [run["dag_run_id"] for run in runs if run["state"] != "success"]
    tasks = [(run_id, task) for run_id in red for task in api.tasks(dag_id, run_id) if task["state"] == "failed"]
    return [f"{run_id} {task['task_id']}: {api.log(dag_id, run_id, task['task_id'])[-1500:]}" for run_id, task in tasks]
