"""VACUUM and ANALYZE by need, on real servers: who is chosen, and what is done."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import sql

from sandbox import processes
from tests.conftest import run
from tests.postgres_server import PostgresServer, table
from upkeep.ledger import Ledger
from upkeep.platforms.services import Vacuum
from upkeep.postgres import vacuum, wording
from upkeep.postgres.needs import Need
from upkeep.postgres.rate import UNKNOWN_RATE, learned

VACUUM = Vacuum()


def test_the_bloated_table_is_chosen_and_the_fresh_one_is_not(server: PostgresServer) -> None:
    table(server, "bloated", dead=4000)
    table(server, "fresh", dead=500)
    needs = server.needs()
    assert list(needs) == ["public.bloated"]
    need = needs["public.bloated"]
    # 4,000 dead over 50 + 0.2 × 10,000; 4,000 changed over 50 + 0.1 × 10,000.
    assert need.arm == "vacuum"
    assert need.facts["dead_score"] == pytest.approx(4000 / 2050, rel=0.01)
    assert need.score == need.facts["analyze_score"] == pytest.approx(4000 / 1050, rel=0.01)
    assert need.because == "4,000 rows changed since the last ANALYZE (3.8 × autovacuum's threshold)"
    assert need.allowed
    assert need.facts["last_vacuum"].startswith(str(datetime.now(UTC).year))
    assert json.loads(json.dumps(need.as_dict()))["table"] == "public.bloated", "XCom takes it as it is"


def test_vacuum_removes_the_dead_rows_once_and_says_what_it_did(server: PostgresServer) -> None:
    table(server, "bookings", dead=4000)
    done = server.care("bookings")
    options = "analyze, skip_locked, truncate false, parallel 0" + (
        ", buffer_usage_limit '4MB', skip_database_stats" if server.version >= 16 else ""
    )
    assert done["statement"] == f'vacuum ({options}) "public"."bookings"'
    assert done["state"] == "done"
    assert (done["before"]["dead_rows"], done["after"]["dead_rows"]) == (4000, 0)
    assert done["after"]["live_rows"] == 10_000
    assert done["wal_bytes"] > 0
    assert 0 < done["seconds"] < 10
    assert wording.cared("public.bookings", done).state == "ok"
    assert server.needs() == {}
    again = server.care("bookings")
    assert again["state"] == "not needed"
    assert server("select vacuum_count from pg_stat_user_tables where relname = 'bookings'") == [(2,)]


def test_only_analyze_where_only_statistics_are_stale(server: PostgresServer) -> None:
    table(server, "grown", rows=10_000)
    server("insert into grown select i, 'x' from generate_series(10001, 12500) as i")
    need = server.needs()["public.grown"]
    assert (need.arm, round(need.facts["analyze_score"], 1)) == ("analyze", 2.4)
    # 2,500 inserted over 1,000 + 0.2 × 10,000; from 18 on frozen pages do not count.
    assert need.facts["insert_score"] < 1 or server.version >= 18
    done = server.care("grown")
    assert done["statement"] == 'analyze (skip_locked) "public"."grown"'
    assert done["state"] == "done"
    assert server.needs() == {}


def test_many_inserts_call_for_vacuum(server: PostgresServer) -> None:
    table(server, "log", rows=100)
    server("insert into log select i, 'x' from generate_series(101, 5000) as i")
    need = server.needs()["public.log"]
    assert need.arm == "vacuum"
    assert need.facts["insert_score"] > 1
    assert server.care("log")["state"] == "done"


def test_storage_parameters_of_a_table_are_honoured(server: PostgresServer) -> None:
    table(server, "eager", dead=60, options="autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0")
    table(
        server, "calm", dead=5000,
        options="autovacuum_vacuum_scale_factor = 0.9, autovacuum_analyze_scale_factor = 0.9",
    )  # fmt: skip
    table(server, "off", dead=4000, options="autovacuum_enabled = false")
    needs = server.needs()
    assert set(needs) == {"public.eager", "public.off"}, "where autovacuum is off, we are needed the more"
    assert needs["public.eager"].facts["dead_score"] == pytest.approx(60 / 50)


def test_dead_rows_of_toast_count_for_the_table(server: PostgresServer) -> None:
    server(
        "create table documents (id int primary key, body text) with (toast.autovacuum_vacuum_threshold = 100,"
        " toast.autovacuum_vacuum_scale_factor = 0, autovacuum_analyze_threshold = 1000)"
    )
    server("alter table documents alter column body set storage external")
    server("insert into documents select i, repeat('x', 9000) from generate_series(1, 200) as i")
    server("vacuum analyze documents")
    server("update documents set body = repeat('y', 9000) where id <= 45")
    need = server.needs()["public.documents"]
    assert need.facts["toast_dead_rows"] == 45 * 5
    assert need.facts["dead_score"] == pytest.approx(45 * 5 / 100)
    done = server.care("documents")
    assert (done["before"]["dead_rows"], done["after"]["dead_rows"]) == (45 * 6, 0)


def test_from_18_on_the_threshold_has_a_cap(each: Callable[[int], PostgresServer]) -> None:
    server = each(18).empty()
    table(server, "large", rows=20_000, dead=400, options="autovacuum_vacuum_max_threshold = 200")
    assert server.needs()["public.large"].facts["dead_score"] == pytest.approx(2.0)


def test_freezing_comes_before_everything_and_is_done(seventeen: PostgresServer) -> None:
    table(seventeen, "bloated", dead=9000)
    table(seventeen, "ancient", rows=1000, options="autovacuum_freeze_max_age = 100000")
    seventeen("do $$ begin for i in 1..61000 loop perform txid_current(); commit; end loop; end $$")
    needs = list(seventeen.needs().values())
    assert [(need.table, need.arm) for need in needs][:1] == [("public.ancient", "freeze")]
    assert needs[0].score < needs[1].score, "although its score is lower"
    assert "transactions not frozen" in needs[0].because
    over = datetime.now(UTC) - timedelta(minutes=1)
    assert seventeen.care("bloated", ends=over)["state"] == "stopped"
    done = seventeen.care("ancient", ends=over)
    assert done["state"] == "done", "wraparound does not wait for windows"
    assert "freeze" in done["statement"]
    assert done["before"]["transactions_unfrozen"] > 61_000
    assert done["after"]["transactions_unfrozen"] < 1000
    assert "public.ancient" not in seventeen.needs()


def test_near_wraparound_nothing_but_freezing_counts(seventeen: PostgresServer) -> None:
    table(seventeen, "old", rows=10, dead=10)
    need = replace(seventeen.needs(Vacuum(least_score=0.1))["public.old"], arm="freeze", failsafe=True)
    assert vacuum.compose(need, 170000).as_string(None) == (
        "vacuum (skip_locked, truncate false, freeze, index_cleanup off, buffer_usage_limit 0, skip_database_stats)"
        ' "public"."old"'
    )


def test_at_most_so_many_tables_the_neediest_first(seventeen: PostgresServer) -> None:
    for number, dead in enumerate((3000, 9000, 6000)):
        table(seventeen, f"t{number}", dead=dead)
    assert list(seventeen.needs(Vacuum(most_tables=2))) == ["public.t1", "public.t2"]


def test_any_name_that_a_table_may_have_is_safe(server: PostgresServer) -> None:
    schema, name = 'My "Schema"; drop', 'Tä.ble\n%s "x"'
    quoted = sql.Identifier(schema, name).as_string(None)
    server(sql.SQL("create schema {}").format(sql.Identifier(schema)).as_string(None))
    table(server, quoted, dead=4000)
    (need,) = server.needs().values()
    assert (need.schema, need.name) == (schema, name)
    assert server.care(name, schema=schema)["after"]["dead_rows"] == 0


def test_what_is_being_vacuumed_now_is_left_alone(seventeen: PostgresServer) -> None:
    table(seventeen, "busy", dead=9000)
    with psycopg.connect(seventeen.owner, autocommit=True) as other:
        other.execute("set vacuum_cost_delay = 100; set vacuum_cost_limit = 1")

        def until_cancelled() -> None:
            with contextlib.suppress(psycopg.errors.QueryCanceled):
                other.execute("vacuum busy")

        thread = threading.Thread(target=until_cancelled)
        thread.start()
        processes.wait_until(
            lambda: seventeen("select count(*) from pg_stat_progress_vacuum")[0][0] == 1, 5, "VACUUM to be at work"
        )
        assert seventeen.needs() == {}
        assert seventeen.care("busy")["state"] == "not needed"
        other.cancel_safe()
        thread.join()
    assert "public.busy" in seventeen.needs()


def test_the_parents_of_partitions_are_analyzed(server: PostgresServer) -> None:
    server("create table events (id int, at date) partition by range (at)")
    for year in (2025, 2026):
        server(
            f"create table events_{year} partition of events for values from ('{year}-01-01') to ('{year + 1}-01-01')"
        )
        server(f"insert into events select i, '{year}-01-01'::date + i % 300 from generate_series(1, 5000) as i")
        server(f"vacuum analyze events_{year}")
    (need,) = server.needs().values()
    assert (need.table, need.kind, need.arm) == ("public.events", "partitioned table", "analyze")
    assert need.because == "it has 10,000 rows and no statistics"
    done = server.care("events")
    assert done["state"] == "done"
    assert done["statement"] == f'analyze (skip_locked) {"only " if server.version >= 18 else ""}"public"."events"'
    inherited = "select count(*) from pg_stats where tablename = 'events' and inherited"
    assert server(inherited) == [(2,)]
    assert server.needs() == {}


def test_what_autovacuum_did_to_the_partitions_is_owed_to_their_parent(seventeen: PostgresServer) -> None:
    seventeen("create table events (id int) partition by range (id)")
    for number in (0, 1):
        start = number * 5000
        seventeen(f"create table events_{number} partition of events for values from ({start}) to ({start + 5000})")
    seventeen("insert into events select generate_series(0, 9999)")
    seventeen("vacuum analyze events")
    assert seventeen.needs() == {}
    seventeen("update events_1 set id = id where id < 6000")
    seventeen.superuser("alter system set autovacuum_naptime = 1")
    seventeen.superuser("alter system set autovacuum = on")
    seventeen.superuser("select pg_reload_conf()")
    try:
        analyzed = "select last_autoanalyze is not null from pg_stat_user_tables where relname = 'events_1'"
        processes.wait_until(lambda: seventeen(analyzed)[0][0], 20, "autovacuum")
    finally:
        seventeen.superuser("alter system set autovacuum = off")
        seventeen.superuser("select pg_reload_conf()")
    assert seventeen.needs() == {}, "550 rows at least, by the partition's threshold; 1,050 is the parent's"
    seventeen("update events_0 set id = id where id < 520")
    (need,) = seventeen.needs().values()
    assert (need.table, need.facts["changed_rows"]) == ("public.events", 50 + 500 + 520)
    assert need.because == (
        "1,070 rows changed since the last ANALYZE (1.0 × autovacuum's threshold), in all its partitions, whose parent"
        " autovacuum never analyzes"
    )
    assert seventeen.care("events")["state"] == "done"
    assert seventeen.needs() == {}


def test_tables_below_other_tables_do_not_hide_their_partitions(seventeen: PostgresServer) -> None:
    seventeen("create table a (id int) partition by range (id)")
    seventeen("create table a_1 partition of a for values from (0) to (100000) partition by range (id)")
    seventeen("create table a_1_1 partition of a_1 for values from (0) to (50000)")
    seventeen("insert into a select generate_series(1, 3000)")
    seventeen("vacuum analyze a_1_1")
    assert set(seventeen.needs()) == {"public.a", "public.a_1"}
    assert seventeen.care("a")["state"] == "done"
    assert seventeen.needs() == {}, "before 18 ANALYZE goes through all that is below"


def test_statistics_that_went_missing_are_made_again(server: PostgresServer) -> None:
    table(server, "upgraded")
    table(server, "crashed")
    for name in ("upgraded", "crashed"):
        server.superuser(f"select pg_stat_reset_single_table_counters('{name}'::regclass)")
    assert server.needs() == {}, "counters that were lost are no missing statistics"
    server.superuser("delete from pg_statistic where starelid = 'upgraded'::regclass")
    (need,) = server.needs().values()
    assert (need.table, need.arm, need.because) == (
        "public.upgraded",
        "analyze",
        "it has 10,000 rows and no statistics",
    )
    assert server.care("upgraded")["state"] == "done"
    assert server.needs() == {}


def test_a_large_table_is_analyzed_before_a_tenth_of_it_has_changed(seventeen: PostgresServer) -> None:
    for name, options in (("large", ""), ("patient", "with (autovacuum_analyze_scale_factor = 0.1)")):
        seventeen(f"create table {name} (id int, n int default 0) {options}")
        seventeen(f"insert into {name} select generate_series(1, 200000)")
        seventeen(f"vacuum analyze {name}")
        seventeen(f"update {name} set n = 1 where id <= 15000")
    (need,) = seventeen.needs().values()
    assert need.table == "public.large", "what its owner has set is not overruled"
    assert need.facts["analyze_score"] < 1
    # 15,000 over the root of 1,000 × 200,000.
    assert need.facts["root_score"] == pytest.approx(15000 / 200_000_000**0.5, rel=0.01)
    assert need.because == "15,000 rows changed since the last ANALYZE (1.1 × √(1,000 × rows))"


def test_workers_only_where_indexes_are_large() -> None:
    facts = {"large_indexes": 5}
    need = Need(
        table="public.t", schema="public", name="t", kind="table", arm="vacuum", score=2, because="", allowed=True,
        owner="o", failsafe=False, facts=facts, work_bytes=0,
    )  # fmt: skip
    assert "parallel 2" in vacuum.compose(need, 170000).as_string(None)
    assert vacuum.compose(need, 130000).as_string(None) == (
        'vacuum (analyze, skip_locked, truncate false, parallel 2) "public"."t"'
    )
    assert "parallel 1" in vacuum.compose(replace(need, facts={"large_indexes": 2}), 170000).as_string(None)


def test_at_the_end_the_database_learns_its_ages_once(server: PostgresServer) -> None:
    assert vacuum.finish(server.conninfo, VACUUM) == (server.version >= 16)


def test_how_long_it_takes_is_learned_from_how_long_it_took(ledger: Ledger) -> None:
    need = Need(
        table="public.t", schema="public", name="t", kind="table", arm="vacuum", score=2, because="", allowed=True,
        owner="o", failsafe=False, facts={}, work_bytes=1_000_000_000,
    )  # fmt: skip

    def done(seconds: float, arm: str = "vacuum", work_bytes: int = 100_000_000) -> None:
        with ledger.action(run(), "postgres", "vacuum", "public.t") as action:
            action.after = {"arm": arm, "seconds": seconds, "work_bytes": work_bytes}

    assert learned(ledger, "studyspot").seconds(need) == pytest.approx(20.05), "50 MB/s while nothing is known"
    done(1)
    done(2)
    done(0.01, work_bytes=8192)
    assert learned(ledger, "studyspot") == UNKNOWN_RATE, "two deeds and a trifle are no experience"
    done(4, "freeze")
    assert learned(ledger, "studyspot").vacuum == pytest.approx(50e6)
    done(8)
    done(8)
    assert learned(ledger, "studyspot").seconds(need) == pytest.approx(40.05), "the median"
    for _ in range(3):
        done(1, "analyze")
    rate = learned(ledger, "studyspot")
    assert rate.seconds(replace(need, arm="analyze")) == pytest.approx(10.05)
    assert learned(ledger, "adaptive_learning") == UNKNOWN_RATE
