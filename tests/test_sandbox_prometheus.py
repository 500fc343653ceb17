"""The sandbox's Prometheus: it measures the platforms' hosts, not this machine, and each fault shows in it."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Iterator

import pytest

from sandbox import processes
from sandbox.faults import break_it, heal_it
from sandbox.home import Home, SandboxError
from sandbox.servers.prometheus import (
    ADDRESSES,
    query,
    start_node_exporter,
    start_prometheus,
    stop_node_exporter,
    stop_prometheus,
)

DISK = (
    '1 - node_filesystem_avail_bytes{{platform="{0}",fstype!~"tmpfs|ramfs|overlay|squashfs"}}'
    ' / node_filesystem_size_bytes{{platform="{0}",fstype!~"tmpfs|ramfs|overlay|squashfs"}}'
)
MEMORY = '1 - node_memory_MemAvailable_bytes{{platform="{0}"}} / node_memory_MemTotal_bytes{{platform="{0}"}}'
PLATFORMS = ("studyspot", "adaptive_learning")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("prometheus"))
    start_node_exporter(home)
    start_prometheus(home)
    yield home
    stop_prometheus(home)
    stop_node_exporter(home)


@pytest.fixture
def broken(home: Home, request: pytest.FixtureRequest) -> Iterator[str]:
    break_it(home, request.param)
    yield request.param
    heal_it(home, request.param)


def shares(home: Home, promql: str, platform: str) -> dict[str, float]:
    """``{"db-0:9100 /var/lib/postgresql": 0.57}``"""
    return {
        f"{labels['instance']} {labels.get('mountpoint', '')}".strip(): round(value, 3)
        for labels, value in query(home, promql.format(platform))
    }


def assert_healthy(home: Home) -> None:
    for platform in PLATFORMS:
        disks, memory = shares(home, DISK, platform), shares(home, MEMORY, platform)
        assert len(disks) > len(memory) >= 3
        assert max([*disks.values(), *memory.values()]) < 0.8


def test_each_platform_has_its_own_hosts_and_all_are_well(home: Home) -> None:
    assert_healthy(home)
    assert shares(home, DISK, "studyspot")["db-0:9100 /var/lib/postgresql"] == 0.57
    assert shares(home, MEMORY, "adaptive_learning")["db-0:9100"] == 0.63
    assert "kafka-0:9100" not in shares(home, MEMORY, "studyspot")


def test_both_names_lead_to_it_and_its_answer_is_prometheus_own(home: Home) -> None:
    for address in ADDRESSES:
        actual = home.state()["connect_to"][address]
        with urllib.request.urlopen(f"http://{actual}/api/v1/query?query=up", timeout=3) as answer:
            found = json.load(answer)
        [series] = found["data"]["result"]
        assert (found["status"], series["metric"]["job"], series["value"][1]) == ("success", "node", "1")
        assert abs(series["value"][0] - time.time()) < 5


def test_a_temporary_file_system_that_is_nearly_full_is_there_to_be_left_out(home: Home) -> None:
    full = query(home, '1 - node_filesystem_avail_bytes{fstype="tmpfs"} / node_filesystem_size_bytes > 0.9')
    assert {labels["platform"] for labels, _ in full} == set(PLATFORMS)


def test_no_disk_or_memory_of_this_machine_is_among_them(home: Home) -> None:
    for name in ("node_filesystem_size_bytes", "node_memory_MemTotal_bytes"):
        assert query(home, f'{name}{{platform=""}}') == []
    assert len(query(home, "node_load1")) == 1, "the exporter measures for real as well"


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize(
    ("name", "promql", "where", "share"),
    [
        ("disk_filling", DISK, "db-0:9100 /var/lib/postgresql", 0.85),
        ("disk_nearly_full", DISK, "db-0:9100 /var/lib/postgresql", 0.95),
        ("memory_high", MEMORY, "db-0:9100", 0.93),
    ],
)
def test_a_host_in_trouble_shows_at_once_and_on_its_platform_alone(
    home: Home, platform: str, name: str, promql: str, where: str, share: float
) -> None:
    before = shares(home, promql, platform)
    [other] = set(PLATFORMS) - {platform}
    break_it(home, f"{platform}_{name}")
    try:
        assert shares(home, promql, platform) == {**before, where: share}
        assert max(shares(home, promql, other).values()) < 0.8
    finally:
        heal_it(home, f"{platform}_{name}")
    assert_healthy(home)


def test_two_faults_of_one_host_are_on_together(home: Home) -> None:
    break_it(home, "studyspot_disk_nearly_full")
    break_it(home, "studyspot_memory_high")
    assert shares(home, DISK, "studyspot")["db-0:9100 /var/lib/postgresql"] == 0.95
    heal_it(home, "studyspot_disk_nearly_full")
    assert shares(home, DISK, "studyspot")["db-0:9100 /var/lib/postgresql"] == 0.57
    assert shares(home, MEMORY, "studyspot")["db-0:9100"] == 0.93
    heal_it(home, "studyspot_memory_high")
    assert_healthy(home)


@pytest.mark.parametrize("broken", ["metrics_missing"], indirect=True)
def test_missing_metrics_are_an_empty_answer_while_the_exporter_is_up(home: Home, broken: str) -> None:
    assert all(shares(home, promql, platform) == {} for promql in (DISK, MEMORY) for platform in PLATFORMS)
    assert [value for _, value in query(home, 'up{job="node"}')] == [1.0]
    heal_it(home, broken)
    assert_healthy(home)


@pytest.mark.parametrize("broken", ["studyspot_metrics_missing"], indirect=True)
def test_metrics_can_be_missing_for_one_platform(home: Home, broken: str) -> None:
    assert shares(home, DISK, "studyspot") == {}
    assert len(shares(home, DISK, "adaptive_learning")) == 5


@pytest.mark.parametrize("broken", ["metrics_stale"], indirect=True)
def test_stale_metrics_vanish_and_the_exporter_is_seen_to_be_down(home: Home, broken: str) -> None:
    assert [value for _, value in query(home, 'up{job="node"}')] == [0.0]
    assert shares(home, DISK, "studyspot") == {}
    heal_it(home, broken)
    assert_healthy(home)


@pytest.mark.parametrize("broken", ["prometheus_hangs"], indirect=True)
def test_a_hanging_prometheus_accepts_and_never_answers(home: Home, broken: str) -> None:
    host, port = home.state()["connect_to"][ADDRESSES[0]].split(":")
    with socket.create_connection((host, int(port)), timeout=2) as connection:
        connection.settimeout(0.5)
        connection.sendall(b"GET /api/v1/query?query=up HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(1)
    heal_it(home, broken)
    assert_healthy(home)


@pytest.mark.parametrize("broken", ["prometheus_down"], indirect=True)
def test_a_prometheus_that_is_down_refuses_and_comes_back_with_its_history(home: Home, broken: str) -> None:
    with pytest.raises(SandboxError, match="refused"):
        query(home, "up")
    heal_it(home, broken)
    assert_healthy(home)
    assert query(home, "count_over_time(up[10m]) > 5"), "samples of before are still there"


def test_starting_twice_keeps_the_first(home: Home) -> None:
    before = [processes.running(home, name) for name in ("prometheus", "node_exporter")]
    start_node_exporter(home)
    start_prometheus(home)
    assert [processes.running(home, name) for name in ("prometheus", "node_exporter")] == before
