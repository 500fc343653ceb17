"""Rebuilding an index: what it brings, and everything that keeps it from being built in vain."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from sandbox import processes
from sandbox.servers import postgres as servers
from tests.reindex_server import PLENTY, ReindexServer, bloated
from upkeep.ledger import Ledger
from upkeep.postgres.reindex import history, wording
from upkeep.postgres.reindex.preflight import DiskUnknown


@pytest.fixture(params=[17, *(pytest.param(version, marks=pytest.mark.soak) for version in (15, 18))])
def any_version(each: Callable[..., ReindexServer], request: pytest.FixtureRequest) -> ReindexServer:
    return each(request.param, ReindexServer).empty()


SERVER = ReindexServer


@pytest.fixture
def server(seventeen: ReindexServer) -> ReindexServer:
    return seventeen


NOTE = "bookings_note"


def test_a_rebuild_frees_what_was_foretold_and_is_not_done_twice(any_version: ReindexServer, ledger: Ledger) -> None:
    server = any_version
    bloated(server, "bookings")
    server("create index bookings_lower on bookings (lower(note))")
    server("analyze bookings")
    item, before = server.item(NOTE), server.indexes()
    done = server.rebuild(ledger, NOTE)
    assert (done["state"], done["built"], done["reason"]) == ("done", True, "")
    assert done["statement"] == 'reindex index concurrently "public"."bookings_note"'
    assert done["bytes_before"] - done["bytes_after"] == pytest.approx(item["wasted"], rel=0.1)
    assert done["bytes_after"] == server.bytes(NOTE)
    after = server.indexes()
    assert set(after) == set(before), "nothing is left behind"
    assert after[NOTE] == (done["oid"], True)
    assert wording.rebuilt(item, done).state == "ok"
    (action,) = ledger.rows("select verb, object, state, before, after from actions")
    assert (action["verb"], action["object"], action["state"]) == ("reindex", "public.bookings_note", "done")
    assert (action["before"]["bytes"], action["after"]["bytes_after"]) == (done["bytes_before"], done["bytes_after"])
    baseline = history.baselines(ledger, "studyspot")["public.bookings_note"]
    assert (baseline.oid, baseline.source, baseline.bytes_after) == (done["oid"], "rebuild", done["bytes_after"])
    assert baseline.best_ratio == pytest.approx(done["bytes_after"] / 4000, rel=0.01)
    # The same task, cleared and run again.
    again = server.rebuild(ledger, NOTE) if NOTE in {c.name for c in server.choose().candidates} else None
    assert again is None
    assert server.rebuild_item(ledger, item)["state"] == "not needed"


def test_an_index_on_an_expression_gets_its_statistics(server: ReindexServer, ledger: Ledger) -> None:
    server("create table bookings (id int, note text)")
    server("insert into bookings select i, md5(i::text) from generate_series(1, 20000) as i")
    server("create index bookings_note on bookings (upper(note))")
    server("delete from bookings where id % 5 > 0")
    server("vacuum bookings")
    server("analyze bookings")
    statistics = "select count(*) from pg_stats where tablename = 'bookings_note'"
    assert server.rebuild(ledger, NOTE)["state"] == "done"
    assert server(statistics) == [(1,)]


# -- in vain -------------------------------------------------------------------------------------------

OTHER = "select count(*) from other"

HOLDERS = {
    "a reader idle in its transaction": ["select count(*) from bookings"],
    "a writer idle in its transaction": ["insert into bookings values (-1, '')"],
    "an old snapshot on another table": ["set transaction isolation level repeatable read", OTHER],
    "a cursor on another table": [f"declare c cursor for {OTHER.replace('count(*)', '*')}", "fetch c"],
}


SOAK = ("a writer idle in its transaction", "a cursor on another table")


@pytest.mark.parametrize(
    "holder", [pytest.param(one, marks=[pytest.mark.soak] if one in SOAK else []) for one in HOLDERS]
)
def test_nothing_is_built_while_an_old_transaction_would_make_it_wait(
    server: ReindexServer, ledger: Ledger, holder: str
) -> None:
    bloated(server, "bookings")
    server("create table other as select 1 as id")
    before = server.indexes()
    with server.session(*HOLDERS[holder]) as session:
        pid = session.info.backend_pid
        done = server.rebuild(ledger, NOTE)
        assert (done["state"], done["built"]) == ("in the way", False)
        assert f"pid {pid} (app_owner api, idle in transaction) holds " in done["reason"]
        assert server.indexes() == before
        outcome = wording.rebuilt(server.item(NOTE), done)
        assert outcome.findings[0].severity == "P3"
        assert "would have been built in vain" in outcome.findings[0].summary
    assert server.rebuild(ledger, NOTE)["state"] == "done"


@pytest.mark.soak
def test_a_prepared_transaction_counts_and_a_young_one_is_waited_for(server: ReindexServer, ledger: Ledger) -> None:
    bloated(server, "bookings")
    with server.session("insert into bookings values (-1, '')") as session:
        session.execute("prepare transaction 'import'")
    done = server.rebuild(ledger, NOTE)
    assert done["state"] == "in the way"
    assert "prepared transaction import, prepared) holds RowExclusiveLock on its table" in done["reason"]
    server("rollback prepared 'import'")
    with server.session("select count(*) from bookings") as session:
        threading.Timer(0.4, session.rollback).start()
        assert server.rebuild(ledger, NOTE)["state"] == "done"
        time.sleep(0.1)


def test_a_locked_table_is_skipped_within_two_seconds_and_tried_again(server: ReindexServer, ledger: Ledger) -> None:
    bloated(server, "bookings")
    with server.session("lock table bookings in share update exclusive mode") as session:
        item = server.item(NOTE)
        began = time.monotonic()
        done = server.rebuild_item(ledger, item)
        assert time.monotonic() - began < 2.5
        assert (done["state"], done["built"]) == ("locked", False)
        assert f"pid {session.info.backend_pid} (app_owner api" in done["reason"]
        assert wording.rebuilt(item, done).findings[0].severity == "P3"
        threading.Timer(2.5, session.rollback).start()
        assert server.rebuild_item(ledger, item, pauses_s=(0, 1, 1))["state"] == "done"


def test_who_comes_after_the_preflight_costs_the_build_but_leaves_nothing(
    server: ReindexServer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    from upkeep.postgres.reindex import leftovers, rebuild

    monkeypatch.setattr(rebuild, "LOCK", timedelta(seconds=1))
    monkeypatch.setattr(leftovers, "LOCK", timedelta(seconds=0.3))
    bloated(server, "bookings")
    server("create table other as select 1 as id")
    before = server.indexes()
    sessions: list[Any] = []

    def arrives(*statements: str) -> Callable[..., tuple[str, str]]:
        def passes(*_: Any) -> tuple[str, str]:
            context = server.session(*statements)
            context.__enter__()
            sessions.append(context)
            return "", ""

        return passes

    monkeypatch.setattr(rebuild, "in_the_way", arrives("set transaction isolation level repeatable read", OTHER))
    done = server.rebuild(ledger, NOTE)
    assert (done["state"], done["built"]) == ("locked", True)
    assert "waiting for old snapshots" in done["reason"]
    assert "app_owner api (idle in transaction)" in done["reason"]
    assert server.indexes() == before, "its _ccnew is gone at once"
    sessions.pop().__exit__(None, None, None)

    # After the swap it only waits to drop the old index: the rebuild is done.
    monkeypatch.setattr(rebuild, "in_the_way", arrives("select count(*) from bookings"))
    item = server.item(NOTE)
    done = server.rebuild_item(ledger, item)
    assert done["state"] == "done"
    assert done["bytes_after"] < done["bytes_before"] / 2
    assert done["leftover"] == "public.bookings_note_ccold"
    (finding,) = wording.rebuilt(item, done).findings
    assert "bookings_note_ccold" in finding.summary
    sessions.pop().__exit__(None, None, None)
    # The task, cleared: what it left goes, and nothing is built again.
    assert server.rebuild_item(ledger, item)["state"] == "not needed"
    assert set(server.indexes()) == set(before)


@pytest.mark.soak
def test_sessions_that_cannot_be_seen_are_not_thereby_absent(server: ReindexServer, ledger: Ledger) -> None:
    bloated(server, "bookings")
    item = server.item(NOTE)
    server.superuser("revoke pg_monitor from upkeep")
    try:
        done = server.rebuild_item(ledger, item)
    finally:
        server.superuser("grant pg_monitor to upkeep")
    assert (done["state"], done["built"]) == ("in the way", False)
    assert done["reason"].endswith("upkeep may not see other sessions (grant pg_monitor to upkeep;)")


# -- room, time --------------------------------------------------------------------------------


def nobody_knows() -> float:
    raise DiskUnknown("the platform file does not say where free disk is read (`metrics.database_free`)")


def test_without_room_or_without_knowing_there_is_no_rebuild(server: ReindexServer, ledger: Ledger) -> None:
    bloated(server, "bookings")
    item = server.item(NOTE)
    new = item["bytes"] - item["wasted"]
    done = server.rebuild(ledger, NOTE, free=nobody_knows)
    assert done["state"] == "no room"
    assert done["reason"].startswith("nobody knows whether there is room for it (")
    assert "metrics.database_free" in wording.rebuilt(item, done).findings[0].hint
    done = server.rebuild(ledger, NOTE, free=lambda: new * 2.1)
    assert "of disk are free" in done["reason"]
    assert server.rebuild(ledger, NOTE, free=lambda: new * 2.3)["state"] == "done"


def test_nothing_begins_that_does_not_fit_or_when_the_brake_says_no(server: ReindexServer, ledger: Ledger) -> None:
    bloated(server, "bookings")
    item = server.item(NOTE)

    def left(seconds: float) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=seconds)

    assert server.rebuild_item(ledger, item, ends=left(-1))["reason"] == "the maintenance window is over"
    done = server.rebuild_item(ledger, item, ends=left(0.1))
    assert done["state"] == "stopped"
    assert "are left of the window" in done["reason"]
    done = server.rebuild_item(ledger, item, go=lambda: "standby db-1 is 31 s behind")
    assert (done["state"], done["reason"]) == ("stopped", "standby db-1 is 31 s behind")
    assert wording.rebuilt(item, done).findings[0].severity == "P4"
    assert server.rebuild_item(ledger, item, ends=left(60))["state"] == "done"


def slow_index(server: ReindexServer, seconds: float) -> None:
    """An index whose rebuild takes about this long."""
    server("create function slow(int) returns int language sql immutable as 'select $1'")
    server("create table bookings (id int, note text)")
    server("insert into bookings select i, md5(i::text) from generate_series(1, 20000) as i")
    server("create index bookings_note on bookings (slow(id))")
    server("delete from bookings where id % 5 > 0")
    server("vacuum analyze bookings")
    server(
        "create or replace function slow(i int) returns int language plpgsql immutable as"
        f" 'begin if i % 100 = 0 then perform pg_sleep({seconds / 200}); end if; return i; end'"
    )


def test_the_end_of_the_window_cancels_what_is_too_slow_and_cleans_up(server: ReindexServer, ledger: Ledger) -> None:
    slow_index(server, 10)
    before = server.indexes()
    ends = datetime.now(UTC) + timedelta(seconds=2)
    done = server.rebuild(ledger, NOTE, ends=ends)
    assert (done["state"], done["reason"]) == ("cancelled", "the maintenance window is over")
    assert datetime.now(UTC) - ends < timedelta(seconds=1.5)
    assert server.indexes() == before
    assert [row["state"] for row in ledger.rows("select state from actions")] == ["skipped"]
    server("drop function slow cascade")


def test_the_watchdog_cancels_when_the_disk_runs_full(
    server: ReindexServer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    from upkeep.postgres.reindex import rebuild

    monkeypatch.setattr(rebuild, "DISK_EVERY_S", 0.3)
    slow_index(server, 10)
    before = server.indexes()
    looks = iter([PLENTY, PLENTY])
    done = server.rebuild(ledger, NOTE, free=lambda: next(looks, 0.0))
    assert (done["state"], done["reason"]) == ("cancelled", "only 0 MiB of disk are left")
    assert server.indexes() == before
    server("drop function slow cascade")


def test_a_duplicate_that_the_rebuild_uncovers_is_told_as_what_it_is(server: ReindexServer, ledger: Ledger) -> None:
    bloated(server, "bookings")
    # What a broken index lets through: the same key twice, one of them not in the index.
    server.superuser("update pg_index set indisready = false where indexrelid = 'bookings_pkey'::regclass")
    server("insert into bookings values (10, 'again')")
    server.superuser("update pg_index set indisready = true where indexrelid = 'bookings_pkey'::regclass")
    item = server.item("bookings_pkey")
    done = server.rebuild_item(ledger, item)
    assert done["state"] == "corrupt"
    assert "Key (id)=(10) is duplicated" in done["reason"]
    assert wording.rebuilt(item, done).findings[0].severity == "P1"
    assert set(server.indexes()) == {"bookings_pkey", "bookings_note"}


def test_a_server_that_restarts_in_the_middle_is_survived(server: ReindexServer, ledger: Ledger) -> None:
    slow_index(server, 10)
    before = server.indexes()
    at_work = "select count(*) from pg_stat_progress_create_index where phase like 'building%'"

    def restart() -> None:
        processes.wait_until(lambda: server.superuser(at_work)[0][0] == 1, 20, "REINDEX to be at work")
        processes.stop(server.home, server.name)
        servers.start_cluster(server.home, server.name, server.version)

    thread = threading.Thread(target=restart)
    thread.start()
    item = server.item(NOTE)
    with pytest.raises(psycopg.OperationalError):
        server.rebuild_item(ledger, item)
    thread.join()
    assert set(server.indexes()) == {*before, "bookings_note_ccnew"}, "what the server's end left behind"
    server("create or replace function slow(i int) returns int language sql immutable as 'select i'")
    assert server.rebuild_item(ledger, item)["state"] == "done"
    assert set(server.indexes()) == set(before)
    assert [row["state"] for row in ledger.rows("select state from actions order by id")] == ["failed", "done"]
    server("drop function slow cascade")
