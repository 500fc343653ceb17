"""What stands in the way of VACUUM on real servers: locks, rights, old snapshots, the window, restarts."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from sandbox import processes
from sandbox.servers import postgres as servers
from tests.postgres_server import PostgresServer, table
from upkeep.errors import CredentialsError, SettingsError
from upkeep.platforms.conduct import Brake
from upkeep.platforms.services import Vacuum
from upkeep.postgres import vacuum, wording
from upkeep.postgres.brake import hold
from upkeep.postgres.needs import tables_in_need
from upkeep.postgres.rate import Rate
from upkeep.postgres.session import exclusive
from upkeep.postgres.snapshots import old_snapshot

VACUUM = Vacuum()


@pytest.mark.parametrize("mode", ["share update exclusive", "access exclusive"])
def test_a_locked_table_is_skipped_within_two_seconds_and_its_holder_named(server: PostgresServer, mode: str) -> None:
    table(server, "locked", dead=4000)
    with server.session(f"lock table locked in {mode} mode") as holder:
        began = time.monotonic()
        done = server.care("locked")
        assert time.monotonic() - began < 2
        assert done["state"] == "locked"
        assert done["reason"] == f"pid {holder.info.backend_pid} (app_owner api) holds {MODES[mode]} on it"
    outcome = wording.cared("public.locked", done)
    (finding,) = outcome.findings
    assert (finding.severity, finding.object) == ("P3", "public.locked")
    assert finding.summary == f"skipped: {done['reason']}"
    assert server.care("locked")["state"] == "done"


MODES = {"share update exclusive": "ShareUpdateExclusiveLock", "access exclusive": "AccessExclusiveLock"}


def test_a_missing_right_is_a_finding_with_the_grant_that_cures_it(server: PostgresServer) -> None:
    table(server, "bookings", dead=4000)
    server.superuser("drop role if exists weak")
    server.superuser("create role weak login password 'weak'; grant pg_monitor to weak")
    weak = make_conninfo(server.conninfo, user="weak", password="weak")
    try:
        with vacuum.gentle(weak, VACUUM) as connection:
            (need,) = tables_in_need(connection, VACUUM)
            grant = vacuum.grant(connection, [need])
            assert not need.allowed
            # PostgreSQL itself only warns, and reports success.
            state = vacuum._state(connection, "public", "bookings")
            assert state is not None
            trusting = vacuum._do(connection, replace(need, allowed=True), state, timedelta(seconds=5))
        assert trusting["state"] == "refused"
        refused = vacuum.care(weak, "public", "bookings", VACUUM)
        assert refused["state"] == "refused"
        (finding,) = wording.cared("public.bookings", refused).findings
        assert finding.severity == "P2"
        assert grant in finding.hint
        rights = next(o for o in wording.chosen([need], grant, []) if o.check == "postgres_vacuum_rights")
        assert [f.severity for f in rights.findings] == ["P2"], "all of them: the task is pointless"
        server.superuser(grant)
        assert vacuum.care(weak, "public", "bookings", VACUUM)["state"] == "done"
    finally:
        server.superuser("drop owned by weak; drop role weak")


def test_whoever_holds_an_old_snapshot_is_named(server: PostgresServer) -> None:
    table(server, "bookings")
    with server.session("set transaction isolation level repeatable read", "select 1") as reader:
        server("update bookings set note = 'changed' where id <= 4000")
        done = server.care("bookings")
        assert done["state"] == "done"
        assert done["after"]["dead_rows"] == 4000
        pid = reader.info.backend_pid
        assert done["held_by"].startswith(f"session app_owner api (pid {pid}), ")
        (finding,) = wording.cared("public.bookings", done).findings
        assert (finding.severity, finding.summary[:39]) == ("P3", "VACUUM left 4,000 of 4,000 dead rows: s")
        with vacuum.gentle(server.conninfo, VACUUM) as connection:
            assert old_snapshot(connection) is None, "not for long yet"
            assert old_snapshot(connection, timedelta(0)).pid == pid
    server("update bookings set note = 'again' where id <= 4000")
    assert server.care("bookings")["after"]["dead_rows"] == 0


def test_prepared_transactions_and_slots_hold_snapshots_too(seventeen: PostgresServer) -> None:
    table(seventeen, "bookings")
    with seventeen.session("create table other ()", "prepare transaction 'forgotten'"):
        pass
    with vacuum.gentle(seventeen.conninfo, VACUUM) as connection:
        assert str(old_snapshot(connection, timedelta(0))).startswith("prepared transaction forgotten, ")
        seventeen("rollback prepared 'forgotten'")
        assert old_snapshot(connection, timedelta(0), 0) is None


def test_a_vacuum_that_takes_too_long_is_given_up(seventeen: PostgresServer) -> None:
    table(seventeen, "large", dead=9000)
    slow = Vacuum(cost_limit=1, cost_delay="100ms", statement_timeout="1s")  # type: ignore[arg-type]
    done = seventeen.care("large", slow)
    assert done["state"] == "cancelled"
    assert done["reason"] == "it was not through after 1 s"
    (finding,) = wording.cared("public.large", done).findings
    assert (finding.severity, "statement_timeout" in finding.hint) == ("P3", True)
    ends = datetime.now(UTC) + timedelta(milliseconds=900)
    began = time.monotonic()
    assert seventeen.care("large", Vacuum(cost_limit=1, cost_delay="100ms"), ends=ends)["state"] == "cancelled"  # type: ignore[arg-type]
    assert time.monotonic() - began < 3, "the end of the window ends it"


def test_a_vacuum_that_the_server_has_not_counted_is_not_called_done(seventeen: PostgresServer) -> None:
    table(seventeen, "bookings", dead=4000)
    seventeen.superuser("alter role upkeep set track_counts = off")
    try:
        done = seventeen.care("bookings")
    finally:
        seventeen.superuser("alter role upkeep reset track_counts")
    assert done["state"] == "unconfirmed"
    (finding,) = wording.cared("public.bookings", done).findings
    assert (finding.severity, "track_counts" in finding.hint) == ("P3", True)


def test_the_brake_is_asked_before_each_table(seventeen: PostgresServer) -> None:
    table(seventeen, "bookings", dead=4000)
    done = seventeen.care("bookings", brake=lambda connection: lambda: "standby is 1.2 GB behind")
    assert (done["state"], done["reason"]) == ("stopped", "standby is 1.2 GB behind")
    (finding,) = wording.cared("public.bookings", done).findings
    assert (finding.severity, finding.summary) == ("P4", "not begun: standby is 1.2 GB behind")
    assert "public.bookings" in seventeen.needs()


def test_the_brake_can_be_asked_by_the_least_role_on_every_version(server: PostgresServer) -> None:
    with vacuum.gentle(server.conninfo, VACUUM) as connection:
        go = hold(connection, Brake(first_wait="1s"), ends=datetime.now(UTC))  # type: ignore[arg-type]
        assert go() == ""
        tight = hold(connection, Brake(sessions=0.001), ends=datetime.now(UTC))
        with psycopg.connect(server.owner, autocommit=True) as busy:
            sleeper = threading.Thread(target=lambda: busy.execute("select pg_sleep(0.5)"))
            sleeper.start()
            processes.wait_until(lambda: tight() != "", 2, "a session to be at work")
            sleeper.join()


def test_a_table_dropped_meanwhile_is_no_failure(seventeen: PostgresServer) -> None:
    table(seventeen, "bookings", dead=4000)
    (need,) = seventeen.needs().values()
    with vacuum.gentle(seventeen.conninfo, VACUUM) as connection:
        state = vacuum._state(connection, "public", "bookings")
        assert state is not None
        seventeen("drop table bookings")
        assert vacuum._do(connection, need, state, timedelta(seconds=5))["state"] == "gone"
    assert seventeen.care("bookings")["state"] == "not needed"


def test_sessions_of_maintenance_are_polite(seventeen: PostgresServer) -> None:
    with vacuum.gentle(seventeen.conninfo, Vacuum(cost_limit=300, cost_delay="1.5ms")) as connection:  # type: ignore[arg-type]
        shown = {
            name: connection.execute(f"show {name}").fetchone()  # type: ignore[call-overload]
            for name in ("application_name", "lock_timeout", "vacuum_cost_limit", "vacuum_cost_delay")
        }
    assert {name: next(iter(row.values())) for name, row in shown.items() if row} == {
        "application_name": "upkeep", "lock_timeout": "2s", "vacuum_cost_limit": "300", "vacuum_cost_delay": "1500us",
    }  # fmt: skip


def test_wrong_credentials_say_so(seventeen: PostgresServer) -> None:
    wrong = make_conninfo(seventeen.conninfo, password="wrong")
    with pytest.raises(CredentialsError, match=r"refused the role of maintenance(.|\n)*HINT"):
        vacuum.care(wrong, "public", "x", VACUUM)


def test_a_standby_is_not_vacuumed(seventeen: PostgresServer) -> None:
    home, name = seventeen.home, "postgres.v17_standby"
    servers.start_standby(home, seventeen.name, name)
    standby = make_conninfo(seventeen.conninfo, port=home.facts(name)["port"])
    with vacuum.gentle(standby, VACUUM) as connection, pytest.raises(SettingsError, match="this server is a standby"):
        tables_in_need(connection, VACUUM)
    processes.stop(home, name)
    seventeen.superuser("select pg_drop_replication_slot('v17_standby')")


AT_ONCE = timedelta(0)
"""Snapshots count from the first second on."""


@pytest.mark.parametrize(
    "transaction",
    ["begin isolation level repeatable read; select 1", "begin; create temp table t (); drop table t"],
    ids=["reader with a snapshot", "writer that is idle now"],
)
def test_vacuum_in_vain_is_left_out_and_the_reason_named(server: PostgresServer, transaction: str) -> None:
    table(server, "bookings")
    table(server, "audit", options="autovacuum_analyze_threshold = 1000000")
    with psycopg.connect(make_conninfo(server.owner, application_name="api"), autocommit=True) as holder:
        holder.execute(transaction)  # type: ignore[call-overload]
        time.sleep(1.1)
        for name in ("bookings", "audit"):
            server(f"update {name} set note = 'changed' where id <= 4000")
        pid = holder.info.backend_pid
        assert server.needs()["public.audit"].in_vain == "", "not for long yet"
        skipped = server.care("audit", old=AT_ONCE)
        assert skipped["state"] == "in vain"
        assert f"while they may be seen by session app_owner api (pid {pid}), " in skipped["reason"]
        (finding,) = wording.cared("public.audit", skipped).findings
        assert (finding.severity, finding.summary[:14]) == ("P3", "not vacuumed: ")
        assert server("select vacuum_count from pg_stat_user_tables where relname = 'audit'") == [(1,)]
        # Statistics are worth having all the same.
        analyzed = server.care("bookings", old=AT_ONCE)
        assert (analyzed["state"], analyzed["statement"]) == ("done", 'analyze (skip_locked) "public"."bookings"')
        holder.execute("rollback")
    assert server.care("audit", old=AT_ONCE)["after"]["dead_rows"] == 0


def test_freezing_in_vain_is_tried_and_is_an_alarm(seventeen: PostgresServer) -> None:
    table(seventeen, "ancient", rows=1000, options="autovacuum_freeze_max_age = 100000")
    with seventeen.session("set transaction isolation level repeatable read", "select 1") as reader:
        seventeen("do $$ begin for i in 1..61000 loop perform txid_current(); commit; end loop; end $$")
        done = seventeen.care("ancient", old=AT_ONCE)
        assert (done["state"], done["arm"], done["in_vain"]) == ("done", "freeze", True)
        (finding,) = wording.cared("public.ancient", done).findings
        assert (finding.severity, "transactions unfrozen: session app_owner api" in finding.summary) == ("P2", True)
        assert f"(pid {reader.info.backend_pid})" in finding.summary
    done = seventeen.care("ancient")
    assert wording.cared("public.ancient", done).state == "ok"


def test_what_would_not_be_through_in_time_is_left_out_and_the_smaller_one_goes(seventeen: PostgresServer) -> None:
    table(seventeen, "large", rows=60_000, dead=20_000)
    table(seventeen, "small", rows=1000, dead=600)
    slow = Rate(vacuum=1e6)
    ends = datetime.now(UTC) + timedelta(seconds=5)
    left_out = seventeen.care("large", ends=ends, rate=slow)
    assert left_out["state"] == "stopped"
    assert left_out["predicted_s"] > 5
    assert left_out["reason"].startswith("it would take about ")
    assert re.search(r"and the window ends in (4\.\d|5\.0) s", left_out["reason"])
    assert wording.cared("public.large", left_out).findings[0].severity == "P4"
    assert seventeen.care("small", ends=ends, rate=slow)["state"] == "done"
    assert seventeen.care("large", ends=ends, rate=Rate(vacuum=1e9))["state"] == "done"


def test_a_restart_of_the_server_in_the_middle_is_survived(seventeen: PostgresServer) -> None:
    table(seventeen, "bookings", rows=50_000, dead=40_000)
    slow = Vacuum(cost_limit=100, cost_delay="10ms")  # type: ignore[arg-type]
    done: dict[str, Any] = {}
    worker = threading.Thread(target=lambda: done.update(seventeen.care("bookings", slow)))
    worker.start()
    at_work = "select count(*) from pg_stat_progress_vacuum"
    processes.wait_until(lambda: seventeen(at_work)[0][0] == 1, 10, "VACUUM to be at work")
    processes.stop(seventeen.home, seventeen.name)
    servers.start_cluster(seventeen.home, seventeen.name, 17)
    worker.join(timeout=60)
    assert (done["state"], done["after"]["dead_rows"]) == ("done", 0)
    assert "terminating connection" in done["interrupted"]


def test_nobody_cares_for_the_same_table_twice_at_once(seventeen: PostgresServer) -> None:
    table(seventeen, "bookings", dead=4000)
    with vacuum.gentle(seventeen.conninfo, VACUUM) as other, exclusive(other, "vacuum public.bookings"):
        done = seventeen.care("bookings")
    assert (done["state"], done["reason"]) == ("locked", "another run is at work on it")
    assert seventeen.care("bookings")["state"] == "done"
