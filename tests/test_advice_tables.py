"""Tables, numbers that run out, and what the database did: each report red by a fault of its own, healed, green."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import psycopg
import pytest

from tests.advice_server import AdviceServer, found, on
from upkeep.findings import Outcome, Severity
from upkeep.postgres.advice import activity, numbers
from upkeep.postgres.advice.memory import grown
from upkeep.postgres.advice.tables import BEHIND, SIZES, STALE

SERVER = AdviceServer

DAY = timedelta(hours=25)


def filled(server: AdviceServer, rows: int = 3000) -> None:
    server("create table t (id int primary key, note text)")
    server(f"insert into t select i, 'x' from generate_series(1, {rows}) as i")
    server("vacuum analyze t")


@on(17)
def test_a_table_half_changed_since_its_analyze_is_told(server: AdviceServer) -> None:
    filled(server)
    server("create table little (id int)")
    server("insert into little select generate_series(1, 100)")
    assert server.report("stale_statistics")[STALE].state == "ok"
    server("update t set note = 'y' where id <= 1600")
    (finding,) = found(server.report("stale_statistics")[STALE]).values()
    assert finding.object == "public.t"
    assert "1,600 changes to 3,000 rows since ANALYZE at" in finding.summary
    server("analyze t")
    assert server.report("stale_statistics")[STALE].state == "ok"


@on(15, 18)
def test_columns_that_the_planner_knows_nothing_of_are_told(server: AdviceServer) -> None:
    filled(server)
    server("alter table t add column late int default 7")
    (finding,) = found(server.report("stale_statistics")[STALE]).values()
    assert "knows nothing of 1 of its columns" in finding.summary
    server("analyze t")
    assert server.report("stale_statistics")[STALE].state == "ok"


@on(17)
def test_a_table_that_autovacuum_leaves_for_a_day_is_told(server: AdviceServer) -> None:
    filled(server)
    server("delete from t where id <= 2000")
    assert server.report("stale_statistics")[BEHIND].state == "ok", "it has had no day yet"
    behind = server.report("stale_statistics", later=DAY)[BEHIND]
    (finding,) = found(behind).values()
    assert finding.object == "public.t"
    assert "last vacuumed 1 d 1 h ago, with 2,000 dead rows" in finding.summary
    assert "last analyzed 1 d 1 h ago, with 2,000 rows changed since" in finding.summary
    server("vacuum analyze t")
    assert server.report("stale_statistics", later=DAY)[BEHIND].state == "ok"


def test_a_table_made_since_the_last_look_gets_its_day(seventeen: AdviceServer) -> None:
    server = seventeen
    server.report("stale_statistics", later=DAY)
    server("create table t (id int)")
    server("insert into t select generate_series(1, 3000)")
    assert server.report("stale_statistics", later=DAY)[BEHIND].state == "ok"
    # … but where nobody knows better, it may have waited since the statistics began.
    server.earlier.clear()
    (finding,) = found(server.report("stale_statistics", later=DAY)[BEHIND]).values()
    assert "never vacuumed, with 3,000 rows inserted since" in finding.summary


@on(17)
def test_sizes_and_growth(server: AdviceServer) -> None:
    filled(server)
    assert server.report("stale_statistics")[SIZES].facts["grown_bytes"] is None
    server("insert into t select i, repeat('x', 100) from generate_series(5000, 9000) as i")
    server("vacuum t")
    facts = server.report("stale_statistics", later=DAY)[SIZES].facts
    assert facts["grown_bytes"] > 0
    assert facts["bytes_per_day"] == pytest.approx(facts["grown_bytes"] * 24 / 25, rel=0.01)
    (row,) = [row for row in facts["largest"] if row["table"] == "public.t"]
    assert row["grown_bytes"] > 300_000


# -- numbers that run out ------------------------------------------------------------------------------


@on(17)
def test_a_sequence_near_its_end_or_that_of_its_column_is_told(server: AdviceServer) -> None:
    for statement in (
        "create table t (a int generated always as identity, b smallserial, c bigserial, d bigint)",
        "create sequence odd_one as bigint",
        "create table u (id int default nextval('odd_one'))",
        "create sequence around maxvalue 100 cycle",
        "create sequence down increment -1 minvalue -1000 maxvalue -1",
        "select setval('t_a_seq', 1932735283), setval('t_c_seq', 1932735283), setval('odd_one', 2100000000),"
        " setval('around', 99), setval('down', -900)",
        "insert into t (d) values (1)",
    ):
        server(statement)
    outcome = server.report("sequences")[numbers.SEQUENCES]
    told = found(outcome)
    assert {name: finding.severity for name, finding in told.items()} == {
        "public.t_a_seq": Severity.P2,
        "public.odd_one": Severity.P1,
        "public.down": Severity.P2,
    }
    assert "90.0% used (1,932,735,284 of 2,147,483,647), which fills public.t.a (integer)" in (
        told["public.t_a_seq"].summary
    )
    assert "bigint" in told["public.t_a_seq"].hint
    server("alter table t alter column a type bigint")
    server("alter sequence t_a_seq as bigint maxvalue 9223372036854775807")
    server("alter table u alter column id type bigint")
    server("alter sequence down minvalue -1000000")
    assert server.report("sequences")[numbers.SEQUENCES].state == "ok"


def test_a_sequence_that_ends_soon_is_told_before_it_is_near(seventeen: AdviceServer) -> None:
    server = seventeen
    server("create table t (id int generated always as identity)")
    server("select setval('t_id_seq', 100)")
    server.report("sequences")
    server("select setval('t_id_seq', 300000000)")
    (finding,) = found(server.report("sequences", later=DAY)[numbers.SEQUENCES]).values()
    assert finding.severity == Severity.P1
    assert "at the present pace it ends in 6.4 days" in finding.summary


@on(15, 17)
def test_sequences_that_may_not_be_read_are_unknown(server: AdviceServer) -> None:
    server("create sequence s")
    try:
        server.superuser("revoke pg_read_all_data from upkeep")
        if server.version < 17:
            server.superuser("revoke app_owner from upkeep")
        assert server.report("sequences")[numbers.SEQUENCES].state == "unknown"
    finally:
        server.superuser("grant pg_read_all_data to upkeep")
        if server.version < 17:
            server.superuser("grant app_owner to upkeep")
    assert server.report("sequences")[numbers.SEQUENCES].state == "ok"


@on(17)
def test_transaction_ids_have_a_pace(server: AdviceServer) -> None:
    server.report("sequences")
    server("create table t (id int)")
    for _ in range(20):
        server("insert into t values (1)")
    outcome = server.report("sequences", later=DAY)[numbers.HEADROOM]
    assert outcome.state == "ok"
    assert 20 <= outcome.facts["ids_per_day"] < 1000
    assert outcome.facts["days_left"] > 1e6
    assert outcome.facts["oldest_tables"]


# -- what the database did -----------------------------------------------------------------------------


@on(15, 17)
def test_after_a_reset_there_is_no_data_and_no_error(server: AdviceServer) -> None:
    filled(server)
    assert 0 < server.report("cache_hits")[activity.CACHE].facts["hit_ratio"] <= 1
    server.superuser("select pg_stat_reset()")
    outcome = server.report("cache_hits")[activity.CACHE]
    assert outcome.state == "ok"
    assert outcome.facts["statistics_reset_meanwhile"]
    ratio = outcome.facts["hit_ratio"]
    # Looking itself reads a few blocks, which may or may not have been counted yet.
    assert ratio == "no data" or 0 <= ratio <= 1
    assert all(value >= 0 for value in outcome.facts.values() if isinstance(value, (int, float)))


def test_no_blocks_are_no_data_and_no_division() -> None:
    nothing = activity.Span({"blocks_hit": 0.0, "blocks_read": 0.0, "commits": None, "rollbacks": 0.0}, None, True)
    ratio, facts = activity.hit_ratio(nothing)
    assert ratio is None
    assert facts["hit_ratio"] == "no data"


@on(17)
def test_the_hit_ratio_is_that_of_the_time_since_the_last_look(server: AdviceServer) -> None:
    filled(server, 20_000)
    server.report("cache_hits")
    for _ in range(30):
        server("select count(*) from t")
    hits = server.report("cache_hits")[activity.CACHE].facts
    assert hits["hit_ratio"] > 0.95
    assert hits["blocks"] > 30 * 80


@on(17)
def test_a_deadlock_is_counted_once(server: AdviceServer) -> None:
    filled(server)
    server.report("cache_hits")
    deadlock(server)
    first = server.report("cache_hits")[activity.DEADLOCKS]
    (finding,) = found(first).values()
    assert "1 deadlock since" in finding.summary
    assert server.report("cache_hits")[activity.DEADLOCKS].state == "ok"


def deadlock(server: AdviceServer) -> None:
    lost: list[str] = []

    def update(first: int, second: int, together: threading.Barrier) -> None:
        with psycopg.connect(server.owner) as connection:
            connection.execute("set deadlock_timeout = '50ms'" if first == 0 else "select 1")
            connection.execute("update t set note = 'x' where id = %s", [first])
            together.wait(5)
            try:
                connection.execute("update t set note = 'x' where id = %s", [second])
            except psycopg.errors.DeadlockDetected:
                lost.append("one")

    together = threading.Barrier(2)
    threads = [threading.Thread(target=update, args=(*ids, together)) for ids in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert lost == ["one"]


def test_temporary_files_and_checkpoints_are_counted_over_the_interval(server: AdviceServer) -> None:
    filled(server)
    server.report("cache_hits")
    server(
        "set work_mem = '64kB'; select count(*) from (select * from generate_series(1, 50000) as i order by -i) as s"
    )
    server.superuser("checkpoint")
    outcomes = server.report("cache_hits", later=timedelta(hours=2))
    assert outcomes[activity.TEMPORARY].facts["temp_files"] >= 1
    assert outcomes[activity.TEMPORARY].facts["temp_bytes"] > 500_000
    assert outcomes[activity.CHECKPOINTS].facts["requested"] >= 1
    assert outcomes[activity.CHECKPOINTS].facts["wal_bytes"] > 0
    again = server.report("cache_hits", later=timedelta(hours=4))
    assert again[activity.TEMPORARY].facts["temp_files"] == 0
    assert again[activity.CHECKPOINTS].facts["requested"] == 0


def test_checkpoints_that_wal_forces_are_told(seventeen: AdviceServer) -> None:
    server = seventeen
    server("create table t (note text)")
    server.report("cache_hits")
    for _ in range(6):
        server("insert into t values ('x')")
        server.superuser("checkpoint")
    time.sleep(0.1)
    outcome: Outcome = server.report("cache_hits")[activity.CHECKPOINTS]
    (finding,) = found(outcome).values()
    assert "100% of 6 checkpoints" in finding.summary
    assert "max_wal_size (512.0 MiB now)" in finding.hint or "max_wal_size (512 MiB now)" in finding.hint
    assert server.report("cache_hits")[activity.CHECKPOINTS].state == "ok"


def test_counters_never_shrink() -> None:
    assert grown({"a": 5.0, "b": None}, {"a": 3.0}) == {"a": 2.0, "b": None}
    assert grown({"a": 1.0, "b": 9.0}, {"a": 3.0, "b": 4.0}) == {"a": 1.0, "b": 9.0}, "both began anew"
    assert grown({"a": 1.0}, None) == {"a": 1.0}
