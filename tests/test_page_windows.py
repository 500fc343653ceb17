"""The page's calendar and its backups: each state told from the others, on a real ledger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from sandbox.home import Home
from tests.conftest import fresh_ledger, libpq
from tests.page_server import shop
from upkeep.ledger import Ledger, Run
from upkeep.page.backups import Proof, proofs
from upkeep.page.windows import Calendar, calendars, days, months
from upkeep.platforms import Platform
from upkeep.platforms.alerting import Window
from upkeep.windows import claims
from upkeep.windows.timetable import between, due

NOW = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
DAILY = "shop_daily_maintenance"
TWO = Window(start="0 2 * * *")


@pytest.fixture(scope="module")
def kept(control: Home) -> Iterator[str]:
    with fresh_ledger(control) as made:
        yield libpq(made)


@pytest.fixture
def ledger(kept: str) -> Iterator[Ledger]:
    """One ledger for this file, emptied for each test."""
    with psycopg.connect(kept) as connection:
        connection.execute("truncate claims, runs, outcomes, findings, backups")
    with Ledger(kept) as opened:
        yield opened


def at(day: int, hour: int = 2) -> datetime:
    return datetime(2026, 11, day, hour, tzinfo=UTC)


def serve(ledger: Ledger, due_at: datetime, state: str = "done", task: str = "vacuum", reason: str = "") -> None:
    """As if a run had served this window when it was due."""
    run = Run(platform="shop", dag_id=DAILY, run_id=f"scheduled__{due_at:%Y-%m-%dT%H}", task_id=task)
    number = claims.begin(ledger, run, due_at, covers=True, alone=False)
    with ledger.transaction() as connection:
        connection.execute(
            "update claims set state = %s, reason = %s, began_at = due_at, ended_at = due_at where id = %s",
            [state, reason, number],
        )


def look(ledger: Ledger, now: datetime = NOW, window: Window = TWO, **more: Any) -> Calendar:
    return calendars(ledger, {DAILY: window}, now, **more)[DAILY]


def states(calendar: Calendar) -> dict[int, str]:
    return {one.due_at.day: one.state for one in calendar.served}


def serve_all(ledger: Ledger, which: Iterable[int]) -> None:
    for day in which:
        serve(ledger, at(day))


def test_each_window_is_done_covered_missed_or_failed(ledger: Ledger) -> None:
    serve_all(ledger, range(10, 20))
    serve(ledger, at(12), "covered", "logs", "covered by scheduled__13")
    serve(ledger, at(14), "failed", "cleanup", "OSError: disk full")
    serve(ledger, at(16), "failed", "reindex", "TimeoutError")
    serve(ledger, at(17), "done", "reindex")
    with ledger.transaction() as connection:
        connection.execute("delete from claims where due_at = %s", [at(15)])
    found = look(ledger)
    assert states(found) == {
        10: "done", 11: "done", 12: "covered", 13: "done", 14: "failed", 15: "missed", 16: "covered", 17: "done",
        18: "done", 19: "done", 20: "missed",
    }  # fmt: skip
    said = {one.due_at.day: one.said for one in found.served}
    assert said[12] == "covered by scheduled__13"
    assert said[14] == "cleanup did not end well: OSError: disk full"
    assert said[16] == "reindex went wrong; a later run has done it"
    assert [one.due_at.day for one in found.wrong] == [20, 15, 14]
    assert found.counts == {"failed": 1, "missed": 2, "running": 0, "covered": 2, "done": 6}
    assert "--from-date 2026-11-14T02:00:00+00:00 --to-date 2026-11-20T02:00:00+00:00" in found.backfill


def test_a_window_that_may_still_be_served_is_not_missed(ledger: Ledger) -> None:
    serve_all(ledger, range(18, 20))
    assert states(look(ledger, at(20, 4)))[20] == "running", "two hours and one of grace are not over"
    assert states(look(ledger, at(20, 6)))[20] == "missed"
    serve(ledger, at(20), "working")
    assert states(look(ledger, at(20, 4)))[20] == "running"
    assert states(look(ledger, at(20, 6)))[20] == "failed", "its worker died without a word"


def test_a_dag_that_has_served_none_yet_has_missed_none(ledger: Ledger) -> None:
    found = look(ledger)
    assert (found.served, found.first_at, found.backfill) == ([], None, "")
    serve_all(ledger, [19])
    assert states(look(ledger)) == {19: "done", 20: "missed"}, "nothing from before its first"


def test_another_timetable_does_not_make_the_past_look_missed(ledger: Ledger) -> None:
    serve_all(ledger, range(10, 16))
    for day in range(16, 21):
        serve(ledger, at(day, 5))
    found = look(ledger, window=Window(start="0 5 * * *"))
    assert set(states(found).values()) == {"done"}
    assert len(found.served) == 11


def test_a_run_by_hand_serves_no_window(ledger: Ledger) -> None:
    serve_all(ledger, [18, 20])
    run = Run(platform="shop", dag_id=DAILY, run_id="manual__1", task_id="vacuum")
    claims.end(ledger, claims.begin(ledger, run, None, covers=True, alone=False), "done")
    assert states(look(ledger))[19] == "missed"


def test_the_row_of_days_and_the_sheets_of_months_show_the_worst_of_each_day(ledger: Ledger) -> None:
    twice = Window(start="0 2,14 * * *")
    for day in (datetime(2026, 10, 30, 2, tzinfo=UTC), at(1), at(1, 14), at(2)):
        serve(ledger, day)
    found = look(ledger, now=at(2, 20), window=twice)
    row = {day.on.day: day.state for day in days([found], at(2, 20), 5)}
    assert row == {29: None, 30: "missed", 31: "missed", 1: "done", 2: "missed"}
    november, october = months(found, at(2, 20))
    assert (october.first.month, november.first.month) == (10, 11)
    assert [(x, y, cell and cell.state) for x, y, cell in november.cells] == [(6, 0, "done"), (0, 1, "missed")]
    assert len(october.cells) == 31


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York"])
@pytest.mark.parametrize("start", ["30 2 * * *", "0 3 * * 0", "0 4 1 * *", "15 0,12 * * 1-5", "0 0 29 2 *"])
def test_all_windows_of_a_year_are_those_that_are_due_one_by_one(start: str, zone: str) -> None:
    window, since = Window(start=start), NOW - timedelta(days=366)
    one_by_one = [tick for tick in due(window, NOW, 5 if "29 2" in start else 800, zone) if tick >= since]
    assert between(window, since, NOW, zone) == one_by_one


# -- backups -----------------------------------------------------------------------------------------------


def back_up(ledger: Ledger, kind: str, old: timedelta, content: str = "verified", reason: str = "") -> None:
    with ledger.transaction() as connection:
        connection.execute(
            "insert into backups (platform, id, kind, engine, bucket, prefix, started_at, finished_at, bytes,"
            " manifest_sha256, dag_id, run_id, content_state, content_reason)"
            " values ('shop', %(id)s, %(kind)s, 'x', 'kept', 'x/', %(at)s, %(at)s, 1000, repeat('a', 64), 'd', 'r',"
            " %(content)s, %(reason)s)",
            {"id": f"{kind}-{old}", "kind": kind, "at": NOW - old, "content": content, "reason": reason},
        )


def promise(**backup: Any) -> Platform:
    sections = {"postgres": {}, "recovery": {"rto": "2h", "rpo": "24h"}}
    return Platform.model_validate(shop("shop", **sections, backup={"bucket": "kept", "database": {}, **backup}))


def proof(ledger: Ledger, platform: Platform) -> Proof:
    return proofs(ledger, [platform], NOW)["shop"]


def hours(count: float) -> timedelta:
    return timedelta(hours=count)


def test_without_any_proof_nothing_is_called_safe(ledger: Ledger) -> None:
    found = proof(ledger, promise())
    assert (found.state, found.said, found.loss_s) == ("failed", "nothing of the database is proved to come back", None)
    back_up(ledger, "database", hours(2), "unchecked")
    found = proof(ledger, promise())
    assert (found.state, found.kinds[0].state, found.kinds[0].said) == ("failed", "unknown", "none was ever proved")


def test_what_would_be_lost_is_held_against_what_is_promised(ledger: Ledger) -> None:
    back_up(ledger, "database", hours(30))
    back_up(ledger, "database", hours(6), "unchecked")
    found = proof(ledger, promise())
    assert (found.state, found.said) == ("finding", "proved back to 1 d 6 h ago; promised 1 d")
    back_up(ledger, "database", hours(7))
    found = proof(ledger, promise())
    assert (found.state, found.said) == ("ok", "proved back to 7 h ago")


@pytest.mark.parametrize(
    ("old", "content", "state", "said"),
    [
        (37, "verified", "finding", "the newest is 1 d 13 h old, allowed are 1 d 12 h"),
        (2, "broken", "failed", "the newest is broken: public.orders: 3 rows differ"),
    ],
)
def test_an_old_or_a_broken_backup_is_red(ledger: Ledger, old: int, content: str, state: str, said: str) -> None:
    back_up(ledger, "database", hours(35.9))
    if content == "verified":
        with ledger.transaction() as connection:
            connection.execute("truncate backups")
    back_up(ledger, "database", hours(old), content, "public.orders: 3 rows differ" if content == "broken" else "")
    (kept,) = proof(ledger, promise()).kinds
    assert (kept.state, kept.said) == (state, said)


def test_the_log_brings_the_cluster_back_to_its_last_round(ledger: Ledger) -> None:
    subject = promise(database=None, cluster={})
    back_up(ledger, "cluster", hours(30))
    for minutes, state in ((30, "ok"), (4, "ok")):
        with ledger.transaction() as connection:
            moment = NOW - timedelta(minutes=minutes)
            connection.execute(
                "insert into outcomes (platform, dag_id, run_id, task_id, check_name, object, state, severity,"
                " started_at, evidence, recorded_at)"
                " values ('shop', 'd', 'r', 't', 'backup_log', 'log', %s, 'P1', %s, repeat('0', 64), %s)",
                [state, moment, moment],
            )
    found = proof(ledger, subject)
    assert (found.state, found.said) == ("ok", "proved back to 4 min ago")
    with ledger.transaction() as connection:
        connection.execute("update outcomes set state = 'unknown' where started_at > %s", [NOW - hours(0.1)])
    found = proof(ledger, subject)
    assert (found.state, found.kinds[0].said) == ("finding", "the last round that fetched the log failed")
    assert found.loss_s == 1800
