"""The daily Dags in a whole Airflow: every fault turns a run red and is told once; its repair is told once."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from sandbox import processes
from sandbox.faults import break_it, heal_it
from sandbox.servers import postgres
from tests.conftest import Live
from tests.live_faults import BATCHES, NEEDS_BACKUPS, NOT_BY_THE_DAG, SOAK, Expected
from upkeep.findings import Severity

pytestmark = pytest.mark.live


def told(live: Live, key: str, paging: bool) -> list[str]:
    if paging:
        return [event["action"] for event in live.inbox.pagerduty() if event["dedup_key"] == key]
    return [
        "resolve" if message["text"].startswith("Resolved") else "trigger"
        for message in live.inbox.slack()
        if message["metadata"]["event_payload"]["key"] == key
    ]


PLATFORMS = ("studyspot", "adaptive_learning")


@pytest.fixture(scope="module", autouse=True)
def _healthy(live: Live) -> None:
    """Both platforms are green before anything is broken: no finding is a false alarm."""
    live.api.wait_for_dags(*(f"{platform}_daily_maintenance" for platform in PLATFORMS))
    runs = live.maintain_all(PLATFORMS)
    with live.ledger() as ledger:
        open_ = ledger.rows("select key, severity, summary from findings where state = 'open' and severity <= 'P2'")
    assert open_ == [], runs
    assert {states[""] for _, states in runs.values()} == {"success"}, runs


@pytest.fixture(autouse=True)
def _second_try(live: Live, request: pytest.FixtureRequest) -> None:
    """What the first one left open would be told to nobody again."""
    if getattr(request.node, "execution_count", 1) > 1:
        settle(live, *PLATFORMS)


def test_every_check_of_the_daily_dags_has_its_fault(live: Live) -> None:
    with live.ledger() as ledger:
        query = "select distinct check_name from outcomes where starts_with(dag_id, platform || '_daily_')"
        checks = {row["check_name"] for row in ledger.rows(query)} - {"run"}
    assert "postgres_connect" in checks
    broken = {one.key.split("/")[0] for batch in BATCHES.values() for one in batch}
    assert checks - broken - set(NOT_BY_THE_DAG) == set()
    assert not broken & set(NOT_BY_THE_DAG)


@pytest.mark.parametrize("batch", [pytest.param(b, marks=[pytest.mark.soak] * (b in SOAK)) for b in BATCHES])
def test_each_fault_is_found_told_once_and_its_repair_is_told_once(live: Live, batch: str) -> None:
    expected = BATCHES[batch]
    faults = list(dict.fromkeys(one.fault for one in expected))
    if set(faults) & set(NEEDS_BACKUPS):
        back_up(live, "studyspot")
    live.inbox.reset()
    broken = []
    try:
        for fault in faults:
            broken.append(fault)
            break_it(live.home, fault)
        looks = [live.maintain_all(PLATFORMS) for _ in range(2)]
        live.deliver()
        with live.ledger() as ledger:
            open_ = {row["key"]: row for row in ledger.rows("select * from findings where state = 'open'")}
    finally:
        for fault in reversed(broken):
            heal_it(live.home, fault)
    wrong = [text for one in expected for text in missing(live, one, open_)]
    assert not wrong, "\n".join(
        [*wrong, "open are:", *(f"{k}: {v['severity']} {v['summary']}" for k, v in open_.items())]
    )
    for look in looks:
        for platform, (run_id, states) in look.items():
            assert {name: states[name] for name in ("", "health", "report", "watcher")} == {
                "": "failed",
                "health": "failed",
                "report": "success",
                "watcher": "failed",
            }, platform
            # The run itself alerts nobody: its findings explain it.
            assert told(live, f"{platform}/run/{platform}_daily_maintenance", paging=True) == []
            if f"{platform}_postgres_down" in faults:
                # A dead database skips its own care, says why, and the rest goes on.
                assert states["choose_tables"] == "skipped"
                assert states["logs"] == "success"
                assert "postgres_connect" in live.api.log(f"{platform}_daily_maintenance", run_id, "choose_tables")
    settle(live, *PLATFORMS)
    for one in expected:
        for paging in (True, False):
            reached = Severity(one.severity).at_least(Severity.P1 if paging else Severity.P2)
            assert told(live, one.alert, paging) == (["trigger", "resolve"] if reached else []), (one.alert, paging)


def back_up(live: Live, platform: str) -> None:
    dag_id = f"{platform}_backup"
    live.api.wait_for_dags(dag_id)
    run_id = live.api.trigger(dag_id)
    assert live.api.wait(dag_id, run_id)["state"] == "success", live.api.tasks(dag_id, run_id)
    # A Dag that is unpaused may also do what was due last night.
    for run in live.api("GET", f"/dags/{dag_id}/dagRuns")["dag_runs"]:
        live.api.wait(dag_id, run["dag_run_id"])


def missing(live: Live, one: Expected, open_: dict[str, dict[str, Any]]) -> list[str]:
    if one.alert not in open_:
        return [f"{one.fault}: no finding {one.alert}"]
    found = open_[one.alert]
    wrong = []
    if found["severity"] != one.severity:
        wrong.append(f"{one.fault}: {one.alert} is {found['severity']}, not {one.severity}")
    if not re.search(one.says, found["summary"]):
        wrong.append(f"{one.fault}: {one.alert} says {found['summary']!r}, not {one.says!r}")
    for paging in (True, False):
        reached = Severity(one.severity).at_least(Severity.P1 if paging else Severity.P2)
        if (seen := told(live, one.alert, paging)) != (["trigger"] if reached else []):
            wrong.append(f"{one.fault}: {one.alert} was told {seen} over {'PagerDuty' if paging else 'Slack'}")
    return wrong


def settle(live: Live, *platforms: str) -> None:
    """Run until green: rollouts and streaming need some seconds to be whole again."""
    deadline = time.monotonic() + 120
    left = list(platforms)
    while left := [platform for platform, (_, states) in live.maintain_all(left).items() if states[""] != "success"]:
        assert time.monotonic() < deadline, left
    live.deliver()


@pytest.mark.soak
def test_with_everything_hanging_the_last_ledger_row_is_there_within_ten_seconds(live: Live) -> None:
    faults = ("all_endpoints_hang", "kubernetes_hangs", "prometheus_hangs")
    for fault in faults:
        break_it(live.home, fault)
    try:
        run_id, states = live.maintain("studyspot")
    finally:
        for fault in reversed(faults):
            heal_it(live.home, fault)
    assert states["health"] == "failed"
    with live.ledger() as ledger:
        (row,) = ledger.rows(
            "select extract(epoch from min(started_at))::float8 as began, extract(epoch from max(recorded_at))::float8"
            " as ended from outcomes where run_id = %s and task_id = 'health'",
            [run_id],
        )
    assert row["ended"] - row["began"] < 10


def test_a_broken_platform_file_is_an_import_error_and_the_others_go_on(live: Live) -> None:
    broken = live.platforms / "shop.yaml"
    broken.write_text("name: shop\ntitle: Shop\npostgres: {idle_in_transaction: 5 minutes}\n")
    try:
        processes.wait_until(lambda: "shop.yaml" in import_errors(live), 60, "the import error")
        text = import_errors(live)
        assert "`postgres.idle_in_transaction` is wrong" in text
        assert "'5 minutes'" in text
        assert "HINT:" in text
        settle(live, "studyspot")
    finally:
        broken.unlink()
    processes.wait_until(lambda: "shop.yaml" not in import_errors(live), 60, "the import error to go")


def import_errors(live: Live) -> str:
    return "\n".join(error["stack_trace"] for error in live.api("GET", "/importErrors")["import_errors"])


@pytest.mark.soak
def test_a_ledger_that_is_down_pages_says_its_cure_and_nothing_is_deleted(live: Live) -> None:
    live.inbox.reset()
    logs = sorted((live.home.directory("hosts") / "var/log/studyspot").rglob("*.log"))
    with postgres.superuser(live.home, "postgres.control") as server:
        server.execute("alter role upkeep nologin")
        server.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'upkeep'")
        try:
            run_id, states = live.maintain("studyspot")
        finally:
            server.execute("alter role upkeep login")
    assert states[""] == "failed"
    said = live.api.log("studyspot_daily_maintenance", run_id, "health")
    assert "the ledger (connection `upkeep_ledger`) cannot be used" in said
    assert "HINT: start its server or correct the connection" in said
    assert sorted((live.home.directory("hosts") / "var/log/studyspot").rglob("*.log")) == logs
    assert told(live, "studyspot/ledger", paging=True) == ["trigger"]
    # Back again: what waited is taken in, and the page is resolved, once.
    live.deliver()
    assert told(live, "studyspot/ledger", paging=True) == ["trigger", "resolve"]
    settle(live, "studyspot")
    assert told(live, "studyspot/ledger", paging=True) == ["trigger", "resolve"]


@pytest.mark.soak
def test_a_killed_task_alerts_under_its_dag_and_the_next_green_run_resolves(live: Live) -> None:
    import psutil

    live.inbox.reset()
    break_it(live.home, "all_endpoints_hang")
    dag_id = "studyspot_daily_maintenance"
    try:
        run_id = live.api.trigger(dag_id)
        processes.wait_until(
            lambda: any(t["task_id"] == "health" and t["state"] == "running" for t in live.api.tasks(dag_id, run_id)),
            60,
            "health to run",
        )
        (task,) = [t for t in live.api.tasks(dag_id, run_id) if t["task_id"] == "health"]
        psutil.Process(task["pid"]).kill()
        assert live.api.wait(dag_id, run_id)["state"] == "failed"
    finally:
        heal_it(live.home, "all_endpoints_hang")
    key = f"studyspot/run/{dag_id}"
    processes.wait_until(lambda: told(live, key, paging=True) == ["trigger"], 120, "the page for the killed task")
    settle(live, "studyspot")
    processes.wait_until(lambda: told(live, key, paging=True) == ["trigger", "resolve"], 120, "the resolve")
