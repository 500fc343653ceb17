"""Deleting expired rows on real servers: which go and which stay, in what order, and who waits for whom."""

from __future__ import annotations

import random
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox import processes
from sandbox.home import Home
from sandbox.servers import postgres as servers
from tests.retention_server import BOOKINGS, FAST, PLAN, USERS, RetentionServer, people
from upkeep.platforms.database import Deletion, Retention
from upkeep.retention import deleting, work

SERVER = RetentionServer


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deleting, "AGAIN_S", 0.2)
    monkeypatch.setattr(deleting, "OUTAGE_S", (0.5,) * 20)


def test_children_go_first_and_whoever_is_referred_to_stays(server: RetentionServer) -> None:
    people(server)
    items = server.plan(users=USERS, bookings=BOOKINGS)
    assert list(items) == ["public.bookings", "public.users"], "whatever the order of the file"
    old = server.ids("bookings", "made < now() - interval '1098 days'")
    kept = server.ids("users", "last_seen > now() - interval '2562 days' or id in (select user_id from bookings)")
    kept_after = server.ids(
        "users",
        "last_seen > now() - interval '2562 days'"
        " or id in (select user_id from bookings where made > now() - interval '1098 days')",
    )
    assert kept_after <= kept
    assert items["public.bookings"].due == len(old)
    assert items["public.users"].due == 400 - len(kept_after), "bookings that go do not hold back"
    for item in items.values():
        result = server.delete(item)
        assert (result.state, result.deleted) == ("done", item.due)
    assert server.ids("bookings") & old == set()
    assert server("select count(*) from bookings") == [(4000 - len(old),)]
    assert server.ids("users") == kept_after
    assert server.recorded() == items["public.bookings"].due + items["public.users"].due
    again = server.plan(users=USERS, bookings=BOOKINGS)
    assert [item.due for item in again.values()] == [0, 0]
    assert again["public.users"].referenced == items["public.users"].referenced


def test_rows_that_are_held_or_without_a_time_or_not_meant_are_untouched(server: RetentionServer) -> None:
    people(server)
    server("alter table bookings add legal_hold boolean")
    server("update bookings set legal_hold = true where id % 10 = 0")
    server("update bookings set made = null where id % 10 = 1")
    server("update bookings set note = '100%% {odd}' where id % 10 = 2")
    rule = Retention(column="made", keep="3y", hold="legal_hold", only="note not like '100\\%%{odd}'")  # type: ignore[arg-type]
    untouched = server("select * from bookings where id % 10 < 3 order by id")
    item = server.plan(bookings=rule)["public.bookings"]
    assert item.held == len(server.ids("bookings", "legal_hold and made < now() - interval '1098 days'"))
    assert item.without_key == 400
    assert server.delete(item).deleted == item.due > 0
    assert server("select * from bookings where id % 10 < 3 order by id") == untouched
    assert not server.ids("bookings", "id % 10 > 2 and made < now() - interval '1098 days'")


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ages=st.lists(st.sampled_from([1, 1097, 1099, 1100, 1101, 1200, None]), min_size=1, max_size=60),
    rows=st.integers(min_value=1, max_value=7),
    seed=st.integers(min_value=0, max_value=9),
)
def test_whatever_the_keys_exactly_the_expired_rows_go(
    seventeen: RetentionServer, ages: list[int | None], rows: int, seed: int
) -> None:
    random.Random(seed).shuffle(ages)
    seventeen("drop table if exists log; create table log (id int primary key, day date)")
    seventeen("create index on log (day)")
    with psycopg.connect(seventeen.owner, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.executemany("insert into log values (%s, current_date - %s::int)", list(enumerate(ages)))
    item = seventeen.plan(log=Retention(column="day", keep="3y"))["public.log"]  # type: ignore[arg-type]
    small = Deletion(rest=0, least_rows=rows, most_rows=rows)
    result = seventeen.delete(item, small, plan=f"{seed}{rows}{len(ages)}{hash(tuple(ages))}")
    assert seventeen.ids("log") == {number for number, age in enumerate(ages) if age is None or age <= 1098}
    assert result.deleted == item.due == sum(age is not None and age > 1098 for age in ages)


def test_rows_locked_by_others_are_passed_by_and_had_in_the_second_pass(seventeen: RetentionServer) -> None:
    people(seventeen)
    item = seventeen.plan(bookings=BOOKINGS)["public.bookings"]
    with seventeen.session("select from bookings where id > 3990 for update") as application:
        threading.Timer(0.1, application.rollback).start()
        result = seventeen.delete(item)
    assert (result.deleted, result.turns) == (item.due, 2)
    assert not seventeen.ids("bookings", "made < now() - interval '1098 days'")


def test_rows_locked_for_long_stay_and_nobody_waits(seventeen: RetentionServer) -> None:
    people(seventeen)
    item = seventeen.plan(bookings=BOOKINGS)["public.bookings"]
    with seventeen.session("select from bookings where id > 3990 for update"):
        result = seventeen.delete(item)
        assert (result.deleted, result.turns) == (item.due - 10, 2)
        assert result.longest_s < 1
    assert seventeen.ids("bookings", "made < now() - interval '1098 days'") == set(range(3991, 4001))


def test_a_reference_that_appears_meanwhile_keeps_its_row_also_where_it_would_cascade(
    seventeen: RetentionServer,
) -> None:
    people(seventeen, bookings=10)
    seventeen("create table tokens (user_id int references users on delete cascade)")
    seventeen("create index on tokens (user_id)")
    item = seventeen.plan(users=USERS)["public.users"]
    assert item.due == 400 - 365
    seventeen("insert into tokens values (400)")
    # Not committed: its lock on the user is what keeps that one.
    with seventeen.session("insert into tokens values (399)") as application:
        result = seventeen.delete(item)
        application.commit()
    assert result.deleted == item.due - 2
    assert {399, 400} <= seventeen.ids("users")
    assert seventeen("select count(*) from tokens") == [(2,)]


def test_a_tree_is_deleted_from_its_leaves(seventeen: RetentionServer) -> None:
    seventeen("create table posts (id int primary key, parent int references posts, made timestamptz)")
    seventeen("create index on posts (made); create index on posts (parent)")
    seventeen(
        "insert into posts select i, case when i % 5 > 0 then i - 1 end,"
        " now() - interval '4 years' + i * interval '1 h' from generate_series(0, 49) as i"
    )
    seventeen("insert into posts values (100, 23, now())")
    item = seventeen.plan(posts=Retention(column="made", keep="3y"))["public.posts"]  # type: ignore[arg-type]
    result = seventeen.delete(item, Deletion(rest=0, least_rows=7))
    assert seventeen.ids("posts") == {100, 20, 21, 22, 23}
    assert (result.state, result.deleted) == ("done", 46)


def test_with_an_old_snapshot_open_the_time_grows_with_the_rows_and_not_with_their_square(
    seventeen: RetentionServer,
) -> None:
    seventeen("create table log (id int primary key, made timestamptz)")
    seventeen(
        "insert into log select i, now() - interval '5 years' + i * interval '1 s' from generate_series(1, 80000) i"
    )
    seventeen("create index on log (made)")
    seventeen("vacuum analyze log")
    item = seventeen.plan(log=BOOKINGS)["public.log"]
    touched = "select idx_tup_read from pg_stat_user_indexes where indexrelname = 'log_made_idx'"
    small = Deletion(rest=0, least_rows=1000, most_rows=1000)
    with seventeen.session("set transaction isolation level repeatable read", "select count(*) from log"):
        result = seventeen.delete(item, small)
    assert (result.deleted, result.batches) == (80_000, 80)
    processes.wait_until(lambda: seventeen(touched)[0][0] > 80_000, 5, "statistics")
    # Twice for the plan's counting; from the beginning each time it would be 40 times as many.
    assert seventeen(touched)[0][0] < 5 * 80_000


def test_a_concurrent_application_does_not_wait(seventeen: RetentionServer) -> None:
    people(seventeen, bookings=20_000)
    item = seventeen.plan(bookings=BOOKINGS)["public.bookings"]
    done: list[work.Result] = []
    worker = threading.Thread(target=lambda: done.append(seventeen.delete(item, Deletion(batch="20ms", least_rows=50))))
    worker.start()
    waited = seventeen.longest_wait("update bookings set note = 'seen' where id = 1 + %s", 300)
    worker.join()
    assert done[0].state == "done"
    assert waited < 0.5
    assert seventeen.delete(item).longest_s < 0.5


def test_it_stops_at_the_end_of_the_window_or_when_the_brake_says_so_and_goes_on_later(
    seventeen: RetentionServer,
) -> None:
    people(seventeen)
    item = seventeen.plan(bookings=BOOKINGS)["public.bookings"]
    over = seventeen.delete(item, ends=datetime.now(UTC))
    assert (over.state, over.reason, over.deleted) == ("stopped", "the maintenance window is over", 0)
    asked: list[float] = []

    def brake() -> str:
        asked.append(time.monotonic())
        if len(asked) == 2:
            time.sleep(0.3)
        return "a standby is 2 GiB behind" if len(asked) == 4 else ""

    stopped = seventeen.delete(item, go=brake)
    assert (stopped.state, stopped.reason) == ("stopped", "a standby is 2 GiB behind")
    assert stopped.batches == 3, "asked before each transaction"
    assert stopped.seconds > 0.3, "the brake's wait is waited"
    assert 0 < stopped.deleted < item.due
    assert seventeen.delete(item).deleted == item.due
    assert seventeen.recorded() == item.due


def test_it_rests_between_transactions_and_finds_their_size(seventeen: RetentionServer) -> None:
    people(seventeen, bookings=20_000)
    item = seventeen.plan(bookings=BOOKINGS)["public.bookings"]
    result = seventeen.delete(item, Deletion(batch="15ms", least_rows=20, most_rows=50_000, rest=0.5))
    assert result.state == "done"
    assert result.batches > 5
    assert result.rested_s > 0.2 * (result.seconds - result.rested_s - 0.5)


def test_what_cannot_be_done_in_time_however_small_is_given_up(
    seventeen: RetentionServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "HARD", timedelta(seconds=0.4))
    people(seventeen)
    seventeen(
        "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.03); return old; end $$"
    )
    seventeen("create trigger slow before delete on bookings for each row execute function slow()")
    item = seventeen.plan(bookings=BOOKINGS)["public.bookings"]
    assert item.notes == ["trigger slow fires on each deleted row"]
    began = time.monotonic()
    result = seventeen.delete(item, Deletion(rest=0, least_rows=100, most_rows=100))
    assert (result.state, result.deleted) == ("failed", 0)
    assert result.reason.startswith("100 rows at a time are too many still: canceling statement due to statement")
    assert time.monotonic() - began < 10
    small = Deletion(rest=0, least_rows=5, most_rows=100)
    smaller = seventeen.delete(item, small, ends=datetime.now(UTC) + timedelta(seconds=1))
    assert smaller.deleted > 0, "with fewer rows it gets along"


def test_a_server_restart_in_the_middle_is_survived(seventeen: RetentionServer, home: Home) -> None:
    people(seventeen, bookings=20_000)
    item = seventeen.plan(bookings=BOOKINGS)["public.bookings"]
    calls = 0

    def restart() -> str:
        nonlocal calls
        calls += 1
        if calls == 6:
            processes.stop(home, seventeen.name)
            threading.Timer(0.7, lambda: servers.start_cluster(home, seventeen.name, 17)).start()
        return ""

    result = seventeen.delete(item, Deletion(rest=0, least_rows=100, most_rows=200), go=restart)
    assert (result.state, result.deleted) == ("done", item.due)
    assert result.outages > 0
    assert seventeen.recorded() == item.due
    assert not seventeen.ids("bookings", "made < now() - interval '1098 days'")


def test_what_was_deleted_is_written_down_without_content(seventeen: RetentionServer) -> None:
    people(seventeen)
    item = seventeen.plan(bookings=BOOKINGS)["public.bookings"]
    expected = seventeen(
        "select sum(hashtextextended(id::text, 0)) from bookings where made < now() - interval '1098 days'"
    )
    seventeen.delete(item, FAST)
    rows: list[tuple[Any, ...]] = seventeen.superuser(
        "select relation, plan, key_column, condition, sum(rows), sum(ids), min(from_key), max(to_key)"
        " from upkeep.deletions group by 1, 2, 3, 4"
    )
    told = ("public.bookings", PLAN, "made", f"made < '{item.cut_off}'")
    assert rows == [(*told, item.due, expected[0][0], item.oldest, item.newest)]
