"""The task `health`: all areas at once, bounded whatever hangs, told to later tasks and to the ledger."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from sandbox import __main__ as sandbox
from sandbox.faults import break_it, heal_it
from sandbox.home import Home
from sandbox.servers import environment
from upkeep.findings import Finding, Outcome, Severity, judged, ok, unknown
from upkeep.health.operators import HealthCheckOperator, unusable
from upkeep.health.samples import headlines
from upkeep.ledger import Ledger
from upkeep.settings import settings


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    """All of StudySpot but its hosts."""
    home = Home(Path(tempfile.mkdtemp(prefix="uph-", dir="/tmp")))
    servers = ["postgres.studyspot", "postgres.studyspot_standby", "redis.studyspot", "endpoints", "kubernetes"]
    try:
        sandbox.up(home, only=[*servers, "node_exporter", "prometheus"], scale=0.02)
        yield home
    finally:
        sandbox.down(home)
        shutil.rmtree(home.path, ignore_errors=True)


@pytest.fixture(autouse=True)
def _spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("UPKEEP_SPOOL", str(tmp_path / "spool"))
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def studyspot(home: Home, ledger_conninfo: str, monkeypatch: pytest.MonkeyPatch) -> Home:
    """StudySpot's connections, and a ledger that knows nothing."""
    for name, value in environment(home).items():
        if name not in ("AIRFLOW_CONN_UPKEEP_LEDGER", "UPKEEP_SPOOL"):
            monkeypatch.setenv(name, value)
    settings.cache_clear()
    return home


class Said:
    """What one run of the task left behind."""

    def __init__(self, platform: str, run_id: str = "manual__1") -> None:
        self.xcom: dict[str, Any] = {}
        self.error = ""
        self.counts: dict[str, int] = {}
        ti = SimpleNamespace(
            dag_id=f"{platform}_daily_maintenance", run_id=run_id, task_id="health", map_index=-1, try_number=1,
            log_url="", xcom_push=lambda key, value: self.xcom.update({key: value}),
        )  # fmt: skip
        task = HealthCheckOperator(task_id="health", platform=platform)
        began = time.monotonic()
        try:
            self.counts = task.execute({"ti": ti})  # type: ignore[typeddict-item]
        except AirflowFailException as failed:
            self.error = str(failed)
        self.seconds = time.monotonic() - began


def states(ledger: Ledger, run_id: str = "manual__1") -> dict[str, str]:
    rows = ledger.rows("select check_name, object, state from outcomes where run_id = %s order by 1, 2", [run_id])
    return {f"{row['check_name']} {row['object']}".strip(): row["state"] for row in rows}


def test_a_healthy_platform_is_green_on_record_and_measured(studyspot: Home, ledger: Ledger) -> None:
    said = Said("studyspot")
    assert said.error == ""
    assert said.xcom == {"unusable": {}}
    seen = states(ledger)
    assert set(seen.values()) == {"ok"}, seen
    assert said.counts == {"ok": len(seen), "finding": 0, "unknown": 0}
    assert len({name.split(" ")[0] for name in seen}) == 30, sorted(seen)
    measured = {(row["metric"], row["object"]) for row in ledger.rows("select metric, object from samples")}
    assert {
        ("redis_hits", ""),
        ("redis_run", ""),
        ("postgres_connections", ""),
        ("postgres_lag_s", "postgres.studyspot_standby"),
        ("disk_share", "db-0:9100:/"),
        ("memory_share", "db-0:9100"),
        ("http_seconds", "api"),
        ("certificate_days_left", "api.studyspot.com:443"),
        ("node_share", "node-1/cpu"),
    } <= measured
    (row,) = ledger.rows("select min(seconds) as least, max(seconds) as most from outcomes")
    assert row["least"] > 0
    assert row["most"] < 8


def test_the_second_run_counts_from_the_first(studyspot: Home, ledger: Ledger) -> None:
    Said("studyspot", "manual__1")
    break_it(studyspot, "studyspot_redis_misses")
    try:
        Said("studyspot", "manual__2")
    finally:
        heal_it(studyspot, "studyspot_redis_misses")
    facts = {
        row["run_id"]: row["facts"]
        for row in ledger.rows("select run_id, facts from outcomes where check_name = 'redis_hit_rate'")
    }
    assert facts["manual__1"] == {"note": "no data: this is the first look"}
    assert facts["manual__2"]["rate"] < 0.1


def test_a_fault_is_red_once_and_its_repair_green(studyspot: Home, ledger: Ledger) -> None:
    break_it(studyspot, "studyspot_postgres_down")
    try:
        said = Said("studyspot", "manual__1")
    finally:
        heal_it(studyspot, "studyspot_postgres_down")
    assert said.error.startswith("P0: 1 of ")
    assert "postgres_connect: no usable connection: " in said.error
    assert list(said.xcom["unusable"]) == ["postgres"]
    assert said.xcom["unusable"]["postgres"].startswith("postgres_connect: no usable connection: ")
    (finding,) = ledger.rows("select key, severity from findings where state = 'open' and severity <= 'P2'")
    assert finding == {"key": "studyspot/postgres_connect", "severity": "P0"}
    said = Said("studyspot", "manual__2")
    assert said.error == ""
    assert ledger.rows("select key from findings where state = 'open' and severity <= 'P2'") == []


def test_a_missing_connection_does_not_stop_the_others(
    studyspot: Home, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_STUDYSPOT_REDIS")
    said = Said("studyspot")
    assert "no connection 'studyspot_redis'; add it in Airflow" in said.error
    assert list(said.xcom["unusable"]) == ["redis"]
    seen = states(ledger)
    assert seen["redis_connect"] == "unknown"
    assert seen["postgres_write"] == seen["http api"] == seen["pods"] == "ok"


def test_with_everything_hanging_the_last_row_is_there_within_ten_seconds(
    ledger_conninfo: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every service of the other platform accepts connections and never says a word."""
    from upkeep.platforms import platform

    subject = platform("adaptive_learning")
    assert subject.http
    assert subject.metrics
    with ExitStack() as stack:

        def mute() -> int:
            return int(stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128)).getsockname()[1])

        def connection(service: str, **content: Any) -> None:
            monkeypatch.setenv(f"AIRFLOW_CONN_ADAPTIVE_LEARNING_{service}", json.dumps(content))

        connection("POSTGRES", conn_type="postgres", host="127.0.0.1", port=mute(), login="upkeep", schema="x")
        connection("REDIS", conn_type="redis", host="127.0.0.1", port=mute(), password="x")
        connection("KAFKA", conn_type="kafka", extra={"bootstrap.servers": f"127.0.0.1:{mute()}"})
        config = tmp_path / "kubeconfig"
        config.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": {"server": f"https://127.0.0.1:{mute()}"}}],
                    "users": [{"name": "u", "user": {"token": "x"}}],
                    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "c",
                }
            )
        )
        connection("KUBERNETES", conn_type="kubernetes", extra={"kube_config_path": str(config)})
        hosts = {"api.adaptivelearning.com:443", "app.adaptivelearning.com:443"}
        hosts |= {subject.metrics.prometheus.split("//")[1].rstrip("/")}
        monkeypatch.setenv("UPKEEP_CONNECT_TO", json.dumps({host: f"127.0.0.1:{mute()}" for host in hosts}))
        settings.cache_clear()
        began = ledger.rows("select clock_timestamp() as now")[0]["now"]
        said = Said("adaptive_learning")
    (rows,) = ledger.rows(
        "select count(*) as rows, count(*) filter (where state = 'ok') as ok, max(started_at) as last_start,"
        " max(started_at + seconds * interval '1 second') as last_end from outcomes"
    )
    assert rows["ok"] == 0
    assert rows["rows"] > 25
    assert set(said.xcom["unusable"]) == {"postgres", "redis", "kafka", "kubernetes"}
    assert said.error.startswith("P0: ")
    (told,) = ledger.rows("select max(last_seen_at) as at from findings")
    assert (told["at"] - began).total_seconds() < 10
    assert (rows["last_end"] - began).total_seconds() < 10
    alerts = {row["key"] for row in ledger.rows("select key from findings where state = 'open'")}
    # One trouble, one alert: nothing that depends on a connection speaks for itself.
    assert {key.split("/")[1] for key in alerts} <= {
        "http", "disk", "memory", "errors", "postgres_connect", "redis_connect", "kafka_brokers", "kubernetes_api",
    }  # fmt: skip


def test_without_a_ledger_it_looks_all_the_same_and_says_what_it_saw(
    studyspot: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    published = json.loads(environment(studyspot)["AIRFLOW_CONN_STUDYSPOT_POSTGRES"])
    monkeypatch.setenv("AIRFLOW_CONN_UPKEEP_LEDGER", json.dumps({**published, "port": 1}))
    said = Said("studyspot")
    assert said.xcom == {"unusable": {}}
    assert "the ledger (connection `upkeep_ledger`) cannot be used" in said.error
    assert list((tmp_path / "spool").iterdir())


def test_an_unknown_platform_is_refused_with_those_there_are() -> None:
    said = Said("nowhere")
    assert "no platform 'nowhere'; there are: adaptive_learning, studyspot" in said.error


def test_only_what_explains_itself_makes_a_service_unusable() -> None:
    refused = Finding(check="redis_connect", severity=Severity.P0, summary="refused", hint="")
    outcomes: list[Outcome] = [
        judged("redis_connect", Severity.P0, [refused]),
        unknown("kafka_brokers", Severity.P1, "did not return within 8 s"),
        ok("postgres_connect", Severity.P0),
        unknown("postgres_primary", Severity.P0, "…", explained_by="postgres_connect"),
    ]
    assert unusable(outcomes) == {
        "redis": "redis_connect: refused",
        "kafka": "kafka_brokers: did not return within 8 s",
    }


def test_headlines_are_numbers_by_metric_and_object() -> None:
    outcomes = [
        ok("disk", Severity.P1, object="db-0:/", share=0.5, age_s=None),
        ok("postgres_replication", Severity.P1, standbys=1, lag_s={"a": 0.5, "b": None}),
        ok("redis_hit_rate", Severity.P3, note="no data", rate=True),
        ok("pods", Severity.P2, pods=4),
    ]
    assert headlines(outcomes) == {("disk_share", "db-0:/"): 0.5, ("postgres_lag_s", "a"): 0.5}
