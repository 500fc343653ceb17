"""``python -m upkeep plan`` against a real database: what the coming windows would do, and what nobody can say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox.servers import postgres as servers
from tests.postgres_server import DATABASE, PostgresServer, table
from upkeep.__main__ import main
from upkeep.plan.gather import slots
from upkeep.platforms import platform
from upkeep.platforms.services import Vacuum
from upkeep.postgres.needs import Need
from upkeep.postgres.plan import _by_then
from upkeep.settings import settings

WEDNESDAY = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


@pytest.fixture
def shop(seventeen: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresServer]:
    """A platform ``shop`` whose database is ``seventeen``, with no ledger."""
    content = {
        "name": "shop",
        "title": "Shop",
        "severity": {
            "levels": {f"P{rank}": {"name": f"P{rank}", "respond": "15m", "resolve": "2h"} for rank in range(4)},
        },
        "windows": {"daily": {"start": "0 2 * * *", "length": "5m"}},
        "postgres": {},
    }
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(content))
    connection = servers.connection_to(seventeen.home, seventeen.name, "upkeep", DATABASE)
    monkeypatch.setenv("AIRFLOW_CONN_SHOP_POSTGRES", json.dumps(connection))
    monkeypatch.setenv("UPKEEP_PLATFORMS", str(tmp_path))
    settings.cache_clear()
    yield seventeen
    settings.cache_clear()


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = main(["plan", *arguments])
    return status, capsys.readouterr().out


def vacuum_items(document: dict[str, Any]) -> list[list[dict[str, Any]]]:
    (found,) = document["platforms"]
    return [
        [item for item in window["items"] if item["job"] == "vacuum"]
        for window in found["windows"]
        if window["name"] == "daily"
    ]


def test_the_next_window_does_what_is_due_now(
    shop: PostgresServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    table(shop, "bookings", dead=4000)
    table(shop, "users")
    shop("insert into users select i, 'x' from generate_series(10001, 11500) as i")
    status, said = plan(capsys, "--json")
    document = json.loads(said)
    assert (status, document["complete"]) == (0, True)
    windows = vacuum_items(document)
    assert len(windows) == 7, "seven days"
    assert windows[1:] == [[]] * 6
    assert [(item["object"], item["act"]) for item in windows[0]] == [
        ("public.bookings", "VACUUM (ANALYZE)"), ("public.users", "ANALYZE"),
    ]  # fmt: skip
    for item in windows[0]:
        assert item["seconds"] > 0
        assert item["bytes"] > 0
        assert item["locks"].startswith("ShareUpdateExclusive; reads and writes go on")
        assert item["left_out"] == ""
    assert windows[0][0]["because"] == "4,000 rows changed since the last ANALYZE (3.8 × autovacuum's threshold)"
    assert set(shop.needs()) == {"public.bookings", "public.users"}, "it only looked"

    status, said = plan(capsys, "--no-color", "shop")
    assert status == 0
    lines = said.splitlines()
    assert lines[0] == "shop  Shop"
    assert lines[2].startswith("    vacuum  2 to do, about 0.")
    assert lines[3].split()[:3] == ["public.bookings", "VACUUM", "(ANALYZE)"]
    assert "4,000 rows changed since the last ANALYZE" in lines[3]
    assert max(len(line) for line in lines) <= 120


def test_what_does_not_fit_waits_for_the_window_after(shop: PostgresServer, capsys: pytest.CaptureFixture[str]) -> None:
    for name, dead, gigabytes in (("huge", 5000, 20), ("first", 4000, 8), ("second", 3500, 8), ("small", 3000, 0.1)):
        table(shop, name, dead=dead)
        # As large as the catalog says; 50 MB/s × 5 min are 15 GB.
        pages = int(gigabytes * 1e9 / 8192)
        shop.superuser(f"update pg_class set relpages = {pages}, relallvisible = 0 where relname = '{name}'")
    first, second, *rest = vacuum_items(json.loads(plan(capsys, "--json")[1]))
    assert {item["object"]: item["left_out"] for item in first} == {
        "public.huge": "it would take about 7 min, and the whole window is 5 min: widen it",
        "public.first": "",
        "public.second": "it would take about 3 min, and 2 min of the window would be left",
        "public.small": "",
    }
    assert [(item["object"], item["left_out"]) for item in second] == [("public.second", "")]
    assert rest == [[]] * 5

    said = plan(capsys, "--no-color")[1]
    assert "    vacuum  2 to do, about 3 min, 7.9 GiB, 2 left out" in said.splitlines()
    assert " left out: it would take about 7 min, and" in said


def test_who_cannot_be_asked_is_unknown_and_the_status_says_so(
    shop: PostgresServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SHOP_POSTGRES", "postgres://u:secret@127.0.0.1:1/x")
    status, said = plan(capsys, "--json")
    document = json.loads(said)
    assert (status, document["complete"]) == (1, False)
    assert "Connection refused" in document["platforms"][0]["unknown"]["vacuum"]
    monkeypatch.delenv("AIRFLOW_CONN_SHOP_POSTGRES")
    status, said = plan(capsys)
    assert status == 1
    assert "unknown  what vacuum would do: no connection 'shop_postgres'" in said


def test_days_that_are_none_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("0", "-1", "week", "400"):
        with pytest.raises(SystemExit):
            main(["plan", f"--days={wrong}"])
        assert f"a number of days up to 366, got '{wrong}'" in capsys.readouterr().err


def test_windows_come_in_order_and_only_those_within_the_days(shop: PostgresServer) -> None:
    found = slots(platform("shop"), WEDNESDAY, 7)
    assert [(slot.name, slot.starts.isoformat()) for slot in found if slot.name not in ("daily", "backup")] == [
        ("weekly", "2026-11-29T03:00:00+00:00"), ("monthly", "2026-12-01T04:00:00+00:00"),
    ]  # fmt: skip
    assert [slot.starts.day for slot in found if slot.name == "daily"] == [26, 27, 28, 29, 30, 1, 2]


def test_a_table_on_its_way_is_foreseen(seventeen: PostgresServer) -> None:
    facts = {
        "dead_score": 0.5, "insert_score": 0.0, "analyze_score": 0.2, "root_score": 0.1, "missing_score": 0.0,
        "last_vacuum": None, "last_autovacuum": (WEDNESDAY - timedelta(days=2)).isoformat(),
        "last_analyze": None, "last_autoanalyze": WEDNESDAY.isoformat(),
    }  # fmt: skip
    need = Need(
        table="public.t", schema="public", name="t", kind="table", arm="analyze", score=0.5, because="", allowed=True,
        owner="o", failsafe=False, facts=facts, work_bytes=1,
    )  # fmt: skip
    assert _by_then(need, WEDNESDAY + timedelta(days=1), WEDNESDAY, Vacuum()) is None, "0.75"
    then = _by_then(need, WEDNESDAY + timedelta(days=3), WEDNESDAY, Vacuum())
    assert then is not None
    assert (then.arm, then.score) == ("vacuum", pytest.approx(1.25))
    assert then.because == "by then about 1.2 × the threshold, if autovacuum has not been there"
