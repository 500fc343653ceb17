"""The daily sample of everything that can run out: real servers, gaps that stay gaps, one sample a day."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import yaml

from sandbox import __main__ as sandbox
from sandbox.faults import break_it, heal_it
from sandbox.home import REPOSITORY, Home
from sandbox.servers import environment
from sandbox.servers import postgres as servers
from upkeep.capacity.operators import SampleCapacityOperator
from upkeep.capacity.samples import Series, read
from upkeep.ledger import Ledger
from upkeep.settings import settings

SERVERS = ["postgres.studyspot", "redis.studyspot", "s3", "kafka", "kubernetes", "node_exporter", "prometheus"]
DAG = "studyspot_daily_maintenance"


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    """All that StudySpot could be made of, Kafka included."""
    home = Home(Path(tempfile.mkdtemp(prefix="upc-", dir="/tmp")))
    try:
        sandbox.up(home, only=SERVERS, scale=0.02)
        files = home.directory("platforms")
        content = yaml.safe_load((REPOSITORY / "include" / "platforms" / "studyspot.yaml").read_text())
        other = yaml.safe_load((REPOSITORY / "include" / "platforms" / "adaptive_learning.yaml").read_text())
        content["kafka"] = other["kafka"]
        content["capacity"]["limits"] = {"cpu_cores": 24, "memory": "96GiB"}
        content["alerts"] = {}
        (files / "studyspot.yaml").write_text(yaml.safe_dump(content))
        yield home
    finally:
        sandbox.down(home)
        shutil.rmtree(home.path, ignore_errors=True)


@pytest.fixture
def surroundings(home: Home, ledger_conninfo: str, tmp_path: Path) -> dict[str, str]:
    made = environment(home)
    made["AIRFLOW_CONN_UPKEEP_LEDGER"] = os.environ["AIRFLOW_CONN_UPKEEP_LEDGER"]
    made["AIRFLOW_CONN_STUDYSPOT_KAFKA"] = made["AIRFLOW_CONN_ADAPTIVE_LEARNING_KAFKA"]
    return {**made, "UPKEEP_PLATFORMS": str(home.directory("platforms")), "UPKEEP_SPOOL": str(tmp_path / "spool")}


@pytest.fixture
def studyspot(home: Home, surroundings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    yield home
    settings.cache_clear()


def sample(number: int = 1, *, due: datetime | None = None, unusable: Any = None) -> dict[str, int]:
    """The task, as a worker runs it; ``due`` as a backfill of that day has it."""
    ti = SimpleNamespace(
        dag_id=DAG, run_id=f"manual__{number}", task_id="capacity", map_index=-1, try_number=1, log_url="",
        xcom_pull=lambda task_ids, key: unusable, get_task_states=lambda **asked: {},
    )  # fmt: skip
    dag_run = SimpleNamespace(run_type="backfill" if due else "manual", logical_date=due, conf={})
    task = SampleCapacityOperator(task_id="capacity", platform="studyspot")
    counts: dict[str, int] = task.execute({"ti": ti, "dag_run": dag_run})  # type: ignore[typeddict-item]
    return counts


def today() -> date:
    return datetime.now(UTC).date()


def kept(ledger: Ledger) -> dict[str, Series]:
    return {one.name: one for one in read(ledger, "studyspot", today())}


def reasons(ledger: Ledger) -> dict[str, str]:
    rows = ledger.rows("select object, reason from outcomes where state = 'unknown' order by id")
    return {row["object"]: row["reason"] for row in rows}


def test_everything_is_sampled_with_its_limit_and_a_second_run_adds_nothing(studyspot: Home, ledger: Ledger) -> None:
    # As a backfill of a day long gone has it: what is measured now is today's.
    counts = sample(due=datetime.now(UTC) - timedelta(days=9))
    days = {row["day"] for row in ledger.rows("select distinct day from capacity_samples where metric <> 'new_rows'")}
    assert days == {today()}, "the backfilled day stays a gap"
    assert reasons(ledger) == {}
    assert counts["unknown"] == 0
    found = kept(ledger)
    assert {
        "database_bytes studyspot", "table_bytes public.bookings", "index_bytes public.bookings_pkey", "wal_bytes",
        "connections", "rows users", "rows bookings", "new_rows users", "volume_share db-0:9100:/",
        "memory_share db-0:9100", "cpu_share db-0:9100", "redis_bytes", "topic_bytes attempts.events",
        "bucket_bytes studyspot-backups", "bucket_bytes studyspot-files", "bucket_objects studyspot-files",
        "pods_cpu_cores", "pods_memory_bytes", "autoscaler_replicas studyspot-api",
    } <= set(found)  # fmt: skip
    with psycopg.connect(servers.dsn(studyspot, "postgres.studyspot", "app_owner", "studyspot")) as database:
        users, size = database.execute("select count(*), pg_database_size(current_database()) from users").fetchone()
    assert found["rows users"].last == (today(), users)
    assert found["new_rows users"].last[0] == today() - timedelta(days=1), "what is told of yesterday is yesterday's"
    assert found["database_bytes studyspot"].last[1] == pytest.approx(size, rel=0.05)
    limits = {name: one.most for name, one in found.items() if one.most is not None}
    assert limits["volume_share db-0:9100:/"] == 1
    assert limits["database_bytes studyspot"] == pytest.approx(size + 0.43 * 500 * 1024**3, rel=0.01)
    assert limits["connections"] > 10
    assert (limits["pods_cpu_cores"], limits["pods_memory_bytes"]) == (24, 96 * 1024**3)
    assert limits["autoscaler_replicas studyspot-api"] == 10
    assert limits["redis_bytes"] > found["redis_bytes"].last[1]
    before = ledger.rows("select * from capacity_samples order by metric, object, day")
    sample(2)
    assert ledger.rows("select * from capacity_samples order by metric, object, day") == before


def test_what_health_measures_all_day_is_told_as_the_days(studyspot: Home, ledger: Ledger) -> None:
    now = datetime.now(UTC)
    for minutes in range(100):
        looks = {
            ("postgres_connections", ""): 40.0 if minutes < 10 else 8.0,
            ("node_share", "node-1/cpu"): minutes / 100,
            ("autoscaler_at_most", "studyspot-api"): float(minutes < 25),
        }
        ledger.sample("studyspot", looks, now - timedelta(minutes=minutes * 14))
    ledger.sample("studyspot", {("postgres_connections", ""): 90.0}, now - timedelta(hours=25))
    sample()
    found = kept(ledger)
    assert found["connections"].last[1] == 40, "as many as were enough for 95 % of the day, not of the night"
    assert found["node_share node-1/cpu"].last[1] == pytest.approx(0.94, abs=0.02)
    assert found["autoscaler_at_most_share studyspot-api"].last[1] == pytest.approx(0.25, abs=0.02)


def test_a_source_that_fails_is_a_gap_and_costs_no_other_its_sample(studyspot: Home, ledger: Ledger) -> None:
    break_it(studyspot, "prometheus_down")
    try:
        assert sample()["unknown"] == 3
    finally:
        heal_it(studyspot, "prometheus_down")
    found = kept(ledger)
    assert not [name for name in found if name.startswith(("volume_share", "memory_share", "cpu_share"))]
    assert found["database_bytes studyspot"].most is None, "nobody knows what is left, and the size is known"
    assert {"rows users", "redis_bytes", "bucket_bytes studyspot-files"} <= set(found)
    assert set(reasons(ledger)) == {"volumes", "memory", "cpu"}
    key = "studyspot/capacity_sample/volumes"
    assert ledger.rows("select state from findings where key = %s", [key]) == [{"state": "open"}]
    # The same day, once more: only what is missing is added, and it is told that it is over.
    assert sample(2)["unknown"] == 0
    assert kept(ledger)["volume_share db-0:9100:/"].last[0] == today()
    assert ledger.rows("select state from findings where key = %s", [key]) == [{"state": "resolved"}]


def test_tables_that_are_locked_or_missing_are_gaps_of_their_own(
    studyspot: Home, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = yaml.safe_load((studyspot.directory("platforms") / "studyspot.yaml").read_text())
    content["capacity"]["growth"] += [
        {"name": "guests", "table": "guests", "column": "created_at"},
        {"name": "late", "table": "bookings", "column": "made_at"},
    ]
    for section in ("kafka", "kubernetes", "metrics", "redis", "backup", "recovery", "certificates"):
        content.pop(section, None)
    (tmp_path / "studyspot.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setenv("UPKEEP_PLATFORMS", str(tmp_path))
    settings.cache_clear()
    with psycopg.connect(servers.dsn(studyspot, "postgres.studyspot", "app_owner", "studyspot")) as locks:
        locks.execute("lock table bookings in access exclusive mode")
        sample()
    said = reasons(ledger)
    assert set(said) == {"postgres relations", "growth bookings", "growth guests", "growth late"}
    assert "lock timeout" in said["growth bookings"]
    assert said["growth guests"].startswith("no table guests; correct `capacity.growth`")
    assert {"rows users", "database_bytes studyspot"} <= set(kept(ledger))


def test_what_health_found_away_is_not_asked_again(studyspot: Home, ledger: Ledger) -> None:
    sample(unusable={"postgres": "postgres_connect: connection refused"})
    rows = ledger.rows("select object, explained_by from outcomes where state = 'unknown'")
    assert rows == [{"object": "postgres", "explained_by": "postgres_connect"}]
    assert "redis_bytes" in kept(ledger)


KILLED = """
import sys
sys.path[:0] = ["plugins", "."]
from tests.test_capacity_sampling import sample
sample()
"""


@pytest.mark.soak
def test_killed_in_the_middle_it_has_kept_nothing_and_the_next_run_keeps_all(
    studyspot: Home, surroundings: dict[str, str], ledger: Ledger
) -> None:
    with psycopg.connect(ledger.connection.info.dsn, password=ledger.connection.info.password) as locks:
        # Its whole day is measured; it hangs where it is written down.
        locks.execute(
            "insert into capacity_samples (platform, metric, day, value) values ('studyspot', 'wal_bytes', %s, 1)",
            [today()],
        )
        task = subprocess.Popen(
            [sys.executable, "-c", KILLED],
            cwd=REPOSITORY,
            env={**os.environ, **surroundings},
            stderr=subprocess.DEVNULL,
        )
        waiting = (
            "select count(*) as n from pg_stat_activity"
            " where wait_event_type = 'Lock' and query like 'insert into capacity_samples%%'"
        )
        deadline = time.monotonic() + 90
        while not ledger.rows(waiting)[0]["n"]:
            assert task.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        (claim,) = ledger.rows("select state from claims where run_id = 'manual__1'")
        assert claim["state"] == "working"
        task.send_signal(signal.SIGKILL)
        task.wait()
        locks.rollback()
    assert kept(ledger) == {}
    sample(1)
    assert {"wal_bytes", "rows users", "redis_bytes"} <= set(kept(ledger))
    assert ledger.rows("select state from claims where run_id = 'manual__1' order by id") == [
        {"state": "abandoned"},
        {"state": "done"},
    ]
