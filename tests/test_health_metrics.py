"""Disk and memory of the platform's hosts, from a real Prometheus: fresh, stale, gone, full."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sandbox import processes
from sandbox.binaries import debian
from sandbox.faults import break_it, heal_it
from sandbox.home import Home
from sandbox.servers.prometheus import start_node_exporter, start_prometheus
from upkeep.findings import Finding, Outcome, Severity
from upkeep.health import metrics
from upkeep.health.metrics import selectors
from upkeep.platforms import platform
from upkeep.platforms.services import Metrics

STUDYSPOT = platform("studyspot").metrics or pytest.fail("the platform file has metrics")


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    home = Home(Path(tempfile.mkdtemp(prefix="uph-", dir="/tmp")))
    try:
        start_node_exporter(home)
        start_prometheus(home)
        yield home
    finally:
        for name in (*home.state().get("processes", {}),):
            processes.stop(home, name)
        shutil.rmtree(home.path, ignore_errors=True)


def look(home: Home, section: Metrics = STUDYSPOT, now: datetime | None = None) -> dict[str, Outcome]:
    seen = metrics.look(section, connect_to=home.state()["connect_to"], now=now)
    return {f"{outcome.check} {outcome.object}".strip(): outcome for outcome in seen}


def only(outcome: Outcome) -> Finding:
    assert len(outcome.findings) == 1, outcome
    return outcome.findings[0]


def assert_well(home: Home) -> None:
    for name, outcome in look(home).items():
        assert outcome.state == "ok", (name, outcome)


@contextmanager
def broken(home: Home, fault: str) -> Iterator[None]:
    break_it(home, fault)
    try:
        yield
    finally:
        heal_it(home, fault)


def test_every_disk_and_host_of_the_platform_is_looked_at_and_nobody_elses(home: Home) -> None:
    seen = look(home)
    assert sorted(seen) == [
        "disk db-0:9100:/",
        "disk db-0:9100:/var/lib/postgresql",
        "disk db-1:9100:/",
        "disk db-1:9100:/var/lib/postgresql",
        "disk node-0:9100:/",
        "disk node-1:9100:/",
        "errors api",
        "errors web",
        "memory db-0:9100",
        "memory db-1:9100",
        "memory node-0:9100",
        "memory node-1:9100",
    ]
    assert_well(home)
    assert seen["disk db-0:9100:/var/lib/postgresql"].facts["share"] == pytest.approx(0.57)
    assert 0 <= seen["memory db-0:9100"].facts["age_s"] < 60


@pytest.mark.parametrize(
    ("fault", "name", "summary", "severity"),
    [
        (
            "studyspot_disk_filling",
            "disk db-0:9100:/var/lib/postgresql",
            "85.0% of the disk of db-0:9100:/var/lib/postgresql is in use",
            Severity.P3,
        ),
        (
            "studyspot_disk_nearly_full",
            "disk db-0:9100:/var/lib/postgresql",
            "95.0% of the disk of db-0:9100:/var/lib/postgresql is in use",
            Severity.P1,
        ),
        ("studyspot_errors_high", "errors api", "12.0% of the requests to api fail", Severity.P1),
        ("studyspot_memory_high", "memory db-0:9100", "93.0% of the memory of db-0:9100 is in use", Severity.P2),
    ],
)
def test_what_runs_full_is_found_and_heals(home: Home, fault: str, name: str, summary: str, severity: Severity) -> None:
    with broken(home, fault):
        seen = look(home)
        assert (only(seen[name]).summary, only(seen[name]).severity) == (summary, severity)
        assert [key for key, outcome in seen.items() if outcome.state != "ok"] == [name]
    assert_well(home)


def test_failing_requests_count_only_where_there_are_enough(home: Home) -> None:
    few = STUDYSPOT.model_copy(update={"least_requests": 1000.0})
    nobody = STUDYSPOT.model_copy(update={"requests_query": "service:requests:rate5m{platform='nobody'}"})
    with broken(home, "studyspot_errors_high"):
        seen = look(home, few)
        assert seen["errors api"].state == "ok"
        assert seen["errors api"].facts["said"] == "too few requests to judge by"
        assert {look(home, nobody)[name].state for name in ("errors api", "errors web")} == {"unknown"}
    silent = look(home, STUDYSPOT.model_copy(update={"errors_query": "", "requests_query": ""}))
    assert not [name for name in silent if name.startswith("errors")]


@pytest.mark.parametrize("fault", ["studyspot_metrics_missing", "metrics_stale"])
def test_no_series_at_all_is_unknown_and_not_fine(home: Home, fault: str) -> None:
    with broken(home, fault):
        seen = look(home)
        assert {outcome.state for outcome in seen.values()} == {"unknown"}
        assert seen["disk"].reason.startswith("Prometheus has no series for 1 - node_filesystem_avail_bytes{")
        assert seen["disk"].severity == Severity.P1
    assert_well(home)


def test_a_prometheus_that_is_down_is_unknown(home: Home) -> None:
    with broken(home, "prometheus_down"):
        seen = look(home)
        assert seen["disk"].reason == "Prometheus: the connection was refused"
        assert seen["memory"].state == "unknown"
    assert_well(home)


def test_the_brake_knows_the_fullest_disk_or_that_nobody_knows(home: Home) -> None:
    connect_to = home.state()["connect_to"]
    shares = [outcome.facts["share"] for name, outcome in look(home).items() if name.startswith("disk")]
    assert metrics.disk_in_use(STUDYSPOT, connect_to=connect_to) == pytest.approx(max(shares), abs=0.02)
    nowhere = STUDYSPOT.model_copy(update={"disk_query": 'node_filesystem_size_bytes{platform="nobody"}'})
    assert metrics.disk_in_use(nowhere, connect_to=connect_to) is None
    with broken(home, "prometheus_down"):
        assert metrics.disk_in_use(STUDYSPOT, connect_to=connect_to) is None


def test_a_prometheus_that_hangs_is_bounded(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "TIMEOUT_S", 0.8)
    pid = processes.running(home, "prometheus")
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        seen = look(home)
        assert time.monotonic() - began < 3
    finally:
        os.kill(pid, signal.SIGCONT)
    assert seen["disk"].reason == "Prometheus: no whole answer in time"
    assert_well(home)


def test_a_query_that_is_wrong_is_unknown_with_prometheus_own_words(home: Home) -> None:
    seen = look(home, STUDYSPOT.model_copy(update={"disk_query": "1 - node_filesystem_avail_bytes{"}))
    assert seen["disk"].reason.startswith("Prometheus: bad_data: invalid parameter")
    seen = look(home, STUDYSPOT.model_copy(update={"disk_query": "1 + 1"}))
    assert seen["disk"].reason == "Prometheus: the query gives a scalar, not a vector"
    seen = look(home, STUDYSPOT.model_copy(update={"memory_query": 'node_memory_MemFree_bytes{instance="db-0:9100"}'}))
    assert seen["memory"].state == "unknown"


def test_something_that_is_not_prometheus_is_unknown(home: Home) -> None:
    exporter = f"http://127.0.0.1:{home.port('node_exporter')}"
    seen = look(home, STUDYSPOT.model_copy(update={"prometheus": exporter}))
    assert seen["disk"].reason == f"Prometheus: {exporter} does not answer like Prometheus (HTTP 200)"


def test_a_result_without_an_instance_is_called_by_its_labels(home: Home) -> None:
    query = 'sum by (platform) (node_memory_MemAvailable_bytes{platform="studyspot"}) / 1e15'
    seen = look(home, STUDYSPOT.model_copy(update={"memory_query": query}))
    assert seen["memory platform=studyspot"].state == "ok"
    assert seen["memory platform=studyspot"].facts["age_s"] < 60


# -- the past ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def past(home: Home) -> Home:
    """A Prometheus that scrapes nothing; what it has was written beforehand."""
    now = time.time()
    samples = {"fresh": range(0, 600, 15), "stale": range(120, 600, 15), "gone": range(900, 1800, 15)}
    lines = [
        f'disk_share{{instance="{name}",mountpoint="/"}} 0.{70 + len(name)} {now - seconds:.3f}'
        for name, ages in samples.items()
        for seconds in sorted(ages, reverse=True)
    ]
    directory = home.directory("past")
    (directory / "samples.txt").write_text("# TYPE disk_share gauge\n" + "\n".join(lines) + "\n# EOF\n")
    (directory / "prometheus.yml").write_text("{}")
    programs = debian("prometheus") / "usr/bin"
    subprocess.run(
        [
            programs / "promtool",
            "tsdb",
            "create-blocks-from",
            "openmetrics",
            directory / "samples.txt",
            directory / "data",
        ],
        check=True,
        capture_output=True,
    )
    port = home.port("past")
    argv = [programs / "prometheus", f"--config.file={directory / 'prometheus.yml'}", "--log.level=warn"]
    argv += [f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    processes.start(home, "past", argv, ready=lambda: processes.listening(port))
    home.connect_to("past.internal:9090", f"127.0.0.1:{port}")
    return home


def test_stale_and_vanished_series_are_unknown_while_the_others_are_judged(past: Home) -> None:
    section = Metrics(
        prometheus="http://past.internal:9090",
        disk_query='disk_share{mountpoint!~"/run.*"} + 0',
        memory_query="disk_share",
        fresh=timedelta(minutes=1),
    )
    seen = look(past, section)
    assert {name: outcome.state for name, outcome in seen.items() if outcome.check == "disk"} == {
        "disk fresh:/": "ok",
        "disk stale:/": "unknown",
        "disk gone:/": "unknown",
    }
    assert "s old; more than 1m is too old" in seen["disk stale:/"].reason
    assert seen["disk stale:/"].facts["last_share"] == 0.75
    assert seen["disk gone:/"].reason == "it has stopped reporting within the last hour (last: 74.0%)"
    patient = section.model_copy(update={"fresh": timedelta(minutes=4)})
    assert look(past, patient)["disk stale:/"].state == "ok"
    # What a clock that is far ahead would make of it: everything is old.
    later = look(past, section, now=datetime.now(UTC) + timedelta(hours=1))
    assert later["disk fresh:/"].state == "unknown"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (
            '1 - node_filesystem_avail_bytes{fstype!~"tmpfs|}{"} / node_filesystem_size_bytes{fstype!~"tmpfs"}',
            ['node_filesystem_avail_bytes{fstype!~"tmpfs|}{"}', 'node_filesystem_size_bytes{fstype!~"tmpfs"}'],
        ),
        ("1 - a / a", ["a"]),
        ('sum by (instance) (rate(x:y{a="b"}[5m])) / on(instance) group_left (job) z offset 1h', ['x:y{a="b"}', "z"]),
        ('{__name__="up", job=~"a.*"} > bool 0', ['{__name__="up", job=~"a.*"}']),
        ("max_over_time(up[1h:1m]) and on () vector(1e9) unless Inf", ["up"]),
        ("sum without(cpu)(irate(node_cpu_seconds_total{mode='idle'}[2m]))", ["node_cpu_seconds_total{mode='idle'}"]),
        ('label_replace(up, "a", "$1", "b", "(.*)")', ["up"]),
    ],
)
def test_the_series_a_query_reads_are_known(query: str, found: list[str]) -> None:
    assert selectors(query) == found
