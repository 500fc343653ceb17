"""What the page shows, as Prometheus reads it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from bench import year
from sandbox.home import Home
from tests.page_server import PageServer, page_server, shop

BACKUP = {"bucket": "kept", "database": {}, "cluster": {}}


@pytest.fixture(scope="module")
def server(control: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    sections = {"postgres": {}, "backup": BACKUP, "recovery": {"rto": "2h", "rpo": "24h"}}
    platforms = [*(shop(name, **sections) for name in year.names(3)), shop("new")]
    with page_server(control, tmp_path_factory.mktemp("page"), platforms) as made:
        year.fill(made.conninfo, 3, days=30)
        yield made


def read(server: PageServer) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """As Prometheus' own parser takes it, which refuses what does not follow the specification."""
    answer = server.program("VIEWER").get("/upkeep/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    return {
        family.name: {tuple(sorted(sample.labels.items())): sample.value for sample in family.samples}
        for family in text_string_to_metric_families(answer.text)
    }


def test_every_number_of_the_page_is_there_and_true(server: PageServer) -> None:
    found = read(server)
    open_now = server.ask("select count(*) from findings where state = 'open'")
    assert sum(found["upkeep_findings"].values()) == open_now > 0
    waived = [value for labels, value in found["upkeep_findings"].items() if ("waived", "true") in labels]
    assert sum(waived) == server.ask("select count(*) from waivers")
    assert {dict(labels)["platform"] for labels in found["upkeep_last_look_timestamp_seconds"]} == set(year.names(3))
    proved = found["upkeep_backup_proved_timestamp_seconds"][(("kind", "database"), ("platform", "shop_01"))]
    newest = server.ask(
        "select extract(epoch from max(started_at))::float8 from backups where platform = 'shop_01'"
        " and kind = 'database' and content_state = 'verified' and deleted_at is null"
    )
    assert proved == pytest.approx(newest)
    assert found["upkeep_recovery_point_objective_seconds"][(("platform", "shop_01"),)] == 86400
    loss = found["upkeep_backup_loss_seconds"][(("platform", "shop_01"),)]
    assert 0 < loss < timedelta(hours=2).total_seconds(), "the log is a few minutes old"
    states = {dict(labels)["state"] for labels in found["upkeep_windows"]}
    assert states == {"done", "covered", "running", "missed", "failed"}
    assert not any(("platform", "new") in labels for labels in found["upkeep_windows"]), "it has served none"


def test_what_is_resolved_is_gone_with_the_next_look(server: PageServer) -> None:
    before = sum(read(server)["upkeep_findings"].values())
    server.ask(
        "update findings set state = 'resolved', resolved_at = now()"
        " where key = (select min(key) from findings where state = 'open')"
    )
    assert sum(read(server)["upkeep_findings"].values()) == before - 1


def test_the_pages_of_platforms_with_a_history_are_whole_and_fast_enough(server: PageServer) -> None:
    """The figures of a year are the contest `page`; here no page may be slow by mistake."""
    with server.browser("ADMIN") as admin:
        for path in (
            "",
            "platforms/shop_01/",
            "platforms/shop_03/",
            "findings/?state=all",
            "incidents/",
            "incidents/shop-03-24/",
        ):
            assert admin.get(f"/upkeep/{path}").status_code == 200
            began = time.monotonic()
            text = admin.get(f"/upkeep/{path}").text
            assert time.monotonic() - began < 5
            assert "</html>" in text
