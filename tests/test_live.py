"""The daily Dags in a whole Airflow: every fault turns a run red and is told once; its repair is told once."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
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

    platform: str
    fault: str
    key: str
    severity: str
    says: str
    """Regular expression that the finding's summary matches: its numbers."""

    @property
    def alert(self) -> str:
        return f"{self.platform}/{self.key}"


def studyspot(fault: str, key: str, severity: str, says: str) -> Expected:
    return Expected("studyspot", f"studyspot_{fault}", key, severity, says)


def adaptive_learning(fault: str, key: str, severity: str, says: str) -> Expected:
    return Expected("adaptive_learning", f"adaptive_learning_{fault}", key, severity, says)


# Faults that do not hide each other are broken together, on both platforms at once.
BATCHES: dict[str, list[Expected]] = {
    "services answer wrongly": [
        studyspot("endpoint_500", "http/api", "P0", r"500"),
        studyspot("web_degraded", "http/web", "P0", r"StudySpot"),
        studyspot("redis_memory_full", "redis_memory", "P1", r"9\d"),
        studyspot("redis_misses", "redis_hit_rate", "P3", r"\d%"),
        studyspot("standby_down", "postgres_replication", "P1", r"0 of 1|no standby|missing"),
        studyspot("idle_in_transaction", "postgres_idle_in_transaction/api idle_in_transaction", "P2", r"\d"),
        studyspot("long_query", "postgres_long_queries/api long_query", "P2", r"1 statement .* longer than \d"),
        studyspot("inactive_slot", "postgres_slots/sandbox_abandoned", "P1", r"holds back \d+\.\d MiB"),
        studyspot("table_missing", "postgres_tables/seats", "P2", r"no table seats"),
        studyspot("pod_crashloop", "pods/studyspot-api", "P1", r"(?i)crash"),
        studyspot("pod_crashloop", "deployments/studyspot-api", "P1", r"2 of 3 replicas"),
        studyspot("node_busy", "usage/node-2/cpu", "P2", r"97%"),
        studyspot("image_gc", "image_gc/node-2", "P3", r"98% down to 95%"),
        studyspot("disk_nearly_full", "disk/db-0:9100:/var/lib/postgresql", "P1", r"95"),
        studyspot("logs_flood", "logs//var/log/studyspot", "P2", r"\d+"),
        adaptive_learning("consumer_stuck", "kafka_lag/scheduler-service/attempts.events", "P1", r"9\d\d,\d{3}"),
        adaptive_learning("consumer_gone", "kafka_lag/mastery-updater/mastery.updates", "P1", r"[\d,]+ messages wait"),
        adaptive_learning("topic_retention", "kafka_retention/notifications", "P3", r"for ever"),
        adaptive_learning("pod_crashloop", "pods/user-service", "P1", r"(?i)crash"),
        adaptive_learning("disk_nearly_full", "disk/db-0:9100:/var/lib/postgresql", "P1", r"95"),
        adaptive_learning("memory_high", "memory/db-0:9100", "P2", r"93"),
        adaptive_learning("endpoint_500", "http/api", "P0", r"500"),
    ],
    "services are short of something": [
        studyspot("endpoint_hangs", "http/api", "P0", r"\d"),
        studyspot("redis_wrong_password", "redis_connect", "P0", r"(?i)password|auth"),
        studyspot("connections_full", "postgres_connections", "P1", r"\d+ of \d+"),
        studyspot("read_only", "postgres_write", "P0", r"read-only transaction"),
        studyspot("node_disk_pressure", "nodes/node-2", "P1", r"DiskPressure"),
        studyspot("service_without_endpoints", "services/studyspot-web", "P1", r"(?i)no ready"),
        studyspot("memory_high", "memory/db-0:9100", "P2", r"93"),
        studyspot("logs_missing", "logs//var/log/studyspot", "P2", r"/var/log/studyspot"),
        adaptive_learning("offline_partition", "kafka_brokers/offline_partitions", "P1", r"1 of 9 partitions"),
        adaptive_learning("endpoint_slow", "http/api", "P3", r"1\.\d+ s"),
        adaptive_learning("web_500", "http/app", "P0", r"500"),
    ],
    "services are gone": [
        studyspot("certificate_expired", "tls/api.studyspot.com:443", "P0", r"(?i)expired"),
        studyspot("postgres_down", "postgres_connect", "P0", r"(?i)refused"),
        studyspot("redis_down", "redis_connect", "P0", r"(?i)refused"),
        Expected("studyspot", "kubernetes_down", "kubernetes_api", "P1", r"(?i)refused"),
        Expected("studyspot", "prometheus_down", "disk", "P1", r"(?i)could not look.*refused"),
        Expected("adaptive_learning", "kubernetes_down", "kubernetes_api", "P1", r"(?i)refused"),
        adaptive_learning("kafka_down", "kafka_brokers/brokers", "P1", r"(?i)broker"),
        adaptive_learning("postgres_down", "postgres_connect", "P0", r"(?i)refused"),
    ],
}

SEEN_RED_ELSEWHERE = {
    "backup_age": "test_backup_freshness.py::test_no_backup_at_all_is_red_and_the_first_one_heals_it",
    "backup_client": "test_backup_freshness.py::test_a_client_older_than_the_server",
    "backup_size": "test_backup_freshness.py::test_a_size_out_of_the_band_is_told_and_one_inside_is_not",
    "backup_verified": "test_backup_freshness.py::test_old_and_unverified_are_told_apart",
    "jobs": "test_cleanup.py::test_a_missing_right_to_delete_is_a_finding",
    "kafka_group": "test_health_kafka.py::test_a_server_that_accepts_and_never_answers_costs_less_than_five_seconds",
    "kafka_log_dirs": "test_cleanup_topics.py::test_a_log_directory_that_failed_is_a_finding_of_the_sections_severity",
    # Needs a restart of the server.
    "postgres_archiver": "test_health_postgres.py::test_failing_wal_archiving_is_found_and_heals",
    # Worse with every minute that somebody waits.
    "postgres_blocked": "test_health_postgres.py::test_the_root_of_a_tree_of_waiting_sessions_is_found",
    "postgres_old_snapshot": "test_postgres_vacuum_trouble.py::test_whoever_holds_an_old_snapshot_is_named",
    # Needs a failover.
    "postgres_primary": "test_health_postgres.py::test_a_standby_behind_the_primarys_name_is_found",
    "postgres_vacuum": "test_postgres_vacuum_tasks.py::"
    "test_what_stops_one_table_is_found_told_and_over_when_it_is_over",
    "postgres_vacuum_need": "test_postgres_vacuum.py::test_the_bloated_table_is_chosen_and_the_fresh_one_is_not",
    "postgres_vacuum_rights": "test_postgres_vacuum_trouble.py::"
    "test_a_missing_right_is_a_finding_with_the_grant_that_cures_it",
    "postgres_version": "test_health_postgres.py::test_older_and_newer_versions_are_looked_at_as_well",
    # Needs a billion transactions.
    "postgres_wraparound": "test_health_postgres.py::test_transaction_ids_that_run_out_are_found",
    "redis_clients": "test_health_redis.py::test_clients_near_the_limit_and_refused_ones_are_found",
    "redis_persistence": "test_health_redis.py::test_a_snapshot_that_fails_is_found_and_heals",
    "temporary_files": "test_cleanup.py::test_a_missing_temporary_tree_is_a_finding",
}
"""Checks whose fault is injected in a test of their module alone, and which."""


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


def test_every_check_of_the_daily_dags_has_its_fault(live: Live) -> None:
    with live.ledger() as ledger:
        checks = {row["check_name"] for row in ledger.rows("select distinct check_name from outcomes")} - {"run"}
    broken = {one.key.split("/")[0] for batch in BATCHES.values() for one in batch}
    assert checks - broken - set(SEEN_RED_ELSEWHERE) == set()
    assert not broken & set(SEEN_RED_ELSEWHERE)
    for check, test in SEEN_RED_ELSEWHERE.items():
        file, _, name = test.partition("::")
        assert f"def {name}(" in Path(__file__).with_name(file).read_text(), check


FULL_COUNT = "services are short of something"
"""Checks that each have a test of their own as well, so that a whole Airflow sees them in `make soak` only."""


@pytest.mark.parametrize("batch", [pytest.param(b, marks=[pytest.mark.soak] * (b == FULL_COUNT)) for b in BATCHES])
def test_each_fault_is_found_told_once_and_its_repair_is_told_once(live: Live, batch: str) -> None:
    expected = BATCHES[batch]
    live.inbox.reset()
    faults = list(dict.fromkeys(one.fault for one in expected))
    for fault in faults:
        break_it(live.home, fault)
    try:
        looks = [live.maintain_all(PLATFORMS) for _ in range(2)]
        live.deliver()
        with live.ledger() as ledger:
            open_ = {row["key"]: row for row in ledger.rows("select * from findings where state = 'open'")}
    finally:
        for fault in reversed(faults):
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
