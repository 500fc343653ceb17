"""Drills on the page: the newest of each kind against its promise, over time, and for Prometheus."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from sandbox.home import Home
from tests.page_server import PageServer, page_server, shop

BACKUP = {"bucket": "shop-backups", "database": {"prefix": "database/"}}


@pytest.fixture(scope="module")
def server(control: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    platforms = [
        shop("shop", postgres={}, backup=BACKUP, recovery={"rto": "1h", "rpo": "15m"}),
        shop("other", postgres={}, backup=BACKUP, recovery={"rto": "1h", "rpo": "15m"}),
    ]
    with page_server(control, tmp_path_factory.mktemp("page"), platforms) as made:
        for quarter, (rto, rpo, verdict) in enumerate([(900, 60, "passed"), (2400, 0, "passed"), (4000, 30, "failed")]):
            drilled(made, 270 - 90 * quarter, "restoration", "newest", rto, rpo, verdict)
        drilled(made, 5, "failover", "kill", 1.4, 0, "passed")
        drilled(made, 4, "application", "pods", None, None, "unknown", reason="the API server <b>did not answer</b>")
        drilled(made, 3, "failover", "kill", 1, 0, "passed", platform="hidden")
        yield made


def drilled(
    server: PageServer, days: float, act: str, scenario: str, rto: float | None, rpo: float | None, verdict: str,
    *, platform: str = "shop", reason: str = "",
) -> None:  # fmt: skip
    server.ask(
        "insert into drills (platform, act, scenario, environment, actor, dag_id, run_id, task_id, started_at,"
        " ended_at, rto_s, rpo_s, rto_target_s, rpo_target_s, act_verdict, validation_verdict, cleanup_verdict, reason)"
        " values (%s, %s, %s, 'staging', 'jo', %s, 'scheduled__2026-10-02T05:00:00+00:00', %s,"
        " now() - make_interval(mins => %s), now(), %s, %s, 3600, 900, %s, 'passed', 'passed', %s)",
        platform, act, scenario, f"{platform}_daily_maintenance", act, int(days * 1440), rto, rpo, verdict, reason,
    )  # fmt: skip


def page(server: PageServer, name: str = "shop") -> str:
    answer = server.browser("Viewer").get(f"/upkeep/platforms/{name}/")
    assert answer.status_code == 200
    return answer.text


def rows(text: str) -> list[str]:
    """The table's rows as a reader hears them."""
    section = text.split('id="drills"')[1].split("<details")[0]
    cut = re.findall(r"<tr>(.*?)</tr>", section, re.S)[1:]
    return [" ".join(re.sub(r"<[^>]+>", " ", one).split()) for one in cut]


def test_the_newest_of_each_kind_stands_against_its_promise(server: PageServer) -> None:
    newest, failover, application = rows(page(server))
    assert newest.startswith("Restoration of the newest backup")
    assert "90 d ago" in newest
    assert "1 h 6 min promised 1 h" in newest
    assert failover.startswith("Failover after the loss of the primary")
    assert "none promised 15 min" in failover
    assert application.startswith("Recovery of the application")
    assert "not measured none to lose" in application
    assert "&lt;b&gt;did not answer" in page(server)


def test_each_leads_to_its_own_page_and_is_drawn_over_time(server: PageServer) -> None:
    text = page(server)
    run = "scheduled__2026-10-02T05%3A00%3A00%2B00%3A00"
    assert f'href="/upkeep/reports/shop/shop_daily_maintenance/{run}/drill-restoration.html"' in text
    assert re.search(r'aria-label="Time to recover: 15 min to .* over 3 drills; promised', text)
    assert text.count('class="missed"') == 1


def test_a_platform_without_drills_has_no_such_section(server: PageServer) -> None:
    assert 'id="drills"' not in page(server, "other")


def test_prometheus_gets_the_newest_of_each_kind(server: PageServer) -> None:
    text = server.program("Viewer").get("/upkeep/metrics").text
    samples: dict[str, Any] = {
        (sample.name, sample.labels["act"], sample.labels.get("state", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("upkeep_drill")
    }
    assert samples["upkeep_drill_rto_seconds", "restoration", ""] == 4000
    assert samples["upkeep_drill_rpo_seconds", "failover", ""] == 0
    assert ("upkeep_drill_rto_seconds", "application", "") not in samples
    assert ("upkeep_drill_timestamp_seconds", "restoration", "failed") in samples
    assert ("upkeep_drill_timestamp_seconds", "application", "unknown") in samples
