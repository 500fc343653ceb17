"""The daily Dags in a whole Airflow: every fault turns a run red and is told once; its repair is told once."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

import pytest

from sandbox import processes
from sandbox.faults import break_it, heal_it
from sandbox.servers import postgres
from tests.conftest import Live
from upkeep.findings import Severity

pytestmark = pytest.mark.live


@dataclass(frozen=True)
class Expected:
    """What one fault must lead to."""

    fault: str
    key: str
    severity: str
    says: str
    """Regular expression that the finding's summary matches: its numbers."""


def expect(fault: str, key: str, severity: str, says: str) -> Expected:
    return Expected(fault, key, severity, says)


# Faults that do not hide each other are broken together, each in a batch of its platform.
BATCHES: dict[str, list[Expected]] = {
    "studyspot-1": [
        expect("studyspot_endpoint_500", "http/api", "P0", r"500"),
        expect("studyspot_web_degraded", "http/web", "P0", r"StudySpot"),
        expect("studyspot_redis_memory_full", "redis_memory", "P1", r"9\d"),
        expect("studyspot_standby_down", "postgres_replication", "P1", r"0 of 1|no standby|missing"),
        expect("studyspot_idle_in_transaction", "postgres_idle_in_transaction/api idle_in_transaction", "P2", r"\d"),
        expect("studyspot_pod_crashloop", "pods/studyspot-api", "P1", r"(?i)crash"),
        expect("studyspot_disk_nearly_full", "disk/db-0:9100:/var/lib/postgresql", "P1", r"95"),
        expect("studyspot_logs_flood", "logs//var/log/studyspot", "P2", r"\d+"),
    ],
    "studyspot-2": [
        expect("studyspot_endpoint_hangs", "http/api", "P0", r"\d"),
        expect("studyspot_redis_wrong_password", "redis_connect", "P0", r"(?i)password|auth"),
        expect("studyspot_connections_full", "postgres_connections", "P1", r"\d+ of \d+"),
        expect("studyspot_node_disk_pressure", "nodes/node-2", "P1", r"DiskPressure"),
        expect("studyspot_service_without_endpoints", "services/studyspot-web", "P1", r"(?i)no ready"),
        expect("studyspot_memory_high", "memory/db-0:9100", "P2", r"93"),
        expect("studyspot_logs_missing", "logs//var/log/studyspot", "P2", r"/var/log/studyspot"),
    ],
    "studyspot-3": [
        expect("studyspot_certificate_expired", "tls/api.studyspot.com:443", "P0", r"(?i)expired"),
        expect("studyspot_postgres_down", "postgres_connect", "P0", r"(?i)refused"),
        expect("studyspot_redis_down", "redis_connect", "P0", r"(?i)refused"),
        expect("kubernetes_down", "kubernetes_api", "P1", r"(?i)refused"),
        expect("prometheus_down", "disk", "P1", r"(?i)could not look.*refused"),
    ],
    "adaptive_learning-1": [
        expect("adaptive_learning_consumer_stuck", "kafka_lag/scheduler-service/attempts.events", "P1", r"9\d\d,\d{3}"),
        expect("adaptive_learning_pod_crashloop", "pods/user-service", "P1", r"(?i)crash"),
        expect("adaptive_learning_disk_nearly_full", "disk/db-0:9100:/var/lib/postgresql", "P1", r"95"),
        expect("adaptive_learning_endpoint_500", "http/api", "P0", r"500"),
    ],
    "adaptive_learning-2": [
        expect("adaptive_learning_kafka_down", "kafka_brokers/brokers", "P1", r"(?i)broker"),
        expect("adaptive_learning_postgres_down", "postgres_connect", "P0", r"(?i)refused"),
    ],
}


def told(live: Live, key: str, paging: bool) -> list[str]:
    if paging:
        return [event["action"] for event in live.inbox.pagerduty() if event["dedup_key"] == key]
    return [
        "resolve" if message["text"].startswith("Resolved") else "trigger"
        for message in live.inbox.slack()
        if message["metadata"]["event_payload"]["key"] == key
    ]


@pytest.fixture(scope="module", autouse=True)
def _healthy(live: Live) -> None:
    """Both platforms are green before anything is broken: no finding is a false alarm."""
    live.api.wait_for_dags("studyspot_daily_maintenance", "adaptive_learning_daily_maintenance")
    for platform in ("studyspot", "adaptive_learning"):
        run_id, states = live.maintain(platform)
        with live.ledger() as ledger:
            open_ = ledger.rows(
                "select key, severity, summary from findings where state = 'open' and severity <= 'P2'"
                " and platform = %s",
                [platform],
            )
        assert open_ == [], run_id
        assert states[""] == "success", states


@pytest.mark.parametrize("batch", BATCHES)
def test_each_fault_is_found_told_once_and_its_repair_is_told_once(live: Live, batch: str) -> None:
    platform = batch.rsplit("-", 1)[0]
    expected = BATCHES[batch]
    live.inbox.reset()
    for one in expected:
        break_it(live.home, one.fault)
    try:
        states = [live.maintain(platform)[1] for _ in range(2)]
        live.deliver()
        with live.ledger() as ledger:
            open_ = {
                row["key"]: row
                for row in ledger.rows("select * from findings where state = 'open' and platform = %s", [platform])
            }
    finally:
        for one in reversed(expected):
            heal_it(live.home, one.fault)
    wrong = [text for one in expected for text in missing(live, platform, one, open_)]
    assert not wrong, "\n".join(
        [*wrong, "open are:", *(f"{k}: {v['severity']} {v['summary']}" for k, v in open_.items())]
    )
    for state in states:
        assert state[""] == "failed"
        assert state["health"] == "failed"
        assert state["report"] == "success"
        assert state["watcher"] == "failed"
    # The run itself alerts nobody: its findings explain it.
    assert told(live, f"{platform}/run/{platform}_daily_maintenance", paging=True) == []
    settle(live, platform)
    for one in expected:
        key = f"{platform}/{one.key}"
        for paging in (True, False):
            reached = Severity(one.severity).at_least(Severity.P1 if paging else Severity.P2)
            assert told(live, key, paging) == (["trigger", "resolve"] if reached else []), (key, paging)


def missing(live: Live, platform: str, one: Expected, open_: dict[str, dict[str, Any]]) -> list[str]:
    key = f"{platform}/{one.key}"
    if key not in open_:
        return [f"{one.fault}: no finding {key}"]
    found = open_[key]
    wrong = []
    if found["severity"] != one.severity:
        wrong.append(f"{one.fault}: {key} is {found['severity']}, not {one.severity}")
    if not re.search(one.says, found["summary"]):
        wrong.append(f"{one.fault}: {key} says {found['summary']!r}, not {one.says!r}")
    for paging in (True, False):
        reached = Severity(one.severity).at_least(Severity.P1 if paging else Severity.P2)
        if (seen := told(live, key, paging)) != (["trigger"] if reached else []):
            wrong.append(f"{one.fault}: {key} was told {seen} over {'PagerDuty' if paging else 'Slack'}")
    return wrong


def settle(live: Live, platform: str) -> None:
    """Run until green: rollouts and streaming need some seconds to be whole again."""
    deadline = time.monotonic() + 90
    while (states := live.maintain(platform)[1])[""] != "success":
        assert time.monotonic() < deadline, states
    live.deliver()


def test_a_dead_database_skips_its_care_and_says_why_and_the_rest_goes_on(live: Live) -> None:
    break_it(live.home, "studyspot_postgres_down")
    try:
        run_id, states = live.maintain("studyspot")
    finally:
        heal_it(live.home, "studyspot_postgres_down")
    assert states["choose_tables"] == "skipped", states
    assert states["logs"] == states["cleanup"] == "success"
    assert "postgres_connect" in live.api.log("studyspot_daily_maintenance", run_id, "choose_tables")
    settle(live, "studyspot")


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
    (task,) = [t for t in live.api.tasks("studyspot_daily_maintenance", run_id) if t["task_id"] == "health"]
    with live.ledger() as ledger:
        (row,) = ledger.rows(
            "select extract(epoch from max(recorded_at) - %s::timestamptz) as seconds from outcomes"
            " where run_id = %s and task_id = 'health'",
            [task["start_date"], run_id],
        )
    assert float(row["seconds"]) <= 10, row
    settle(live, "studyspot")


def test_a_broken_platform_file_is_an_import_error_and_the_others_go_on(live: Live) -> None:
    broken = live.platforms / "shop.yaml"
    broken.write_text("name: shop\ntitle: Shop\npostgres: {idle_in_transaction: 5 minutes}\n")
    try:
        processes.wait_until(lambda: "shop.yaml" in import_errors(live), 60, "the import error")
        text = import_errors(live)
        assert "`postgres.idle_in_transaction` is wrong" in text
        assert "'5 minutes'" in text
        assert "HINT:" in text
        assert live.maintain("studyspot")[1][""] == "success"
    finally:
        broken.unlink()
    processes.wait_until(lambda: "shop.yaml" not in import_errors(live), 60, "the import error to go")


def import_errors(live: Live) -> str:
    return "\n".join(error["stack_trace"] for error in live.api("GET", "/importErrors")["import_errors"])


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
    settle(live, "studyspot")
    assert told(live, "studyspot/ledger", paging=True) == ["trigger", "resolve"]


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
