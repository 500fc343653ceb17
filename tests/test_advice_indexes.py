"""Indexes: what is unused, duplicate, invalid or missing; and what is never said, however unused it is."""

from __future__ import annotations

import contextlib
import time
from datetime import timedelta

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from sandbox import processes
from sandbox.servers import postgres as servers
from tests.advice_server import MONTH, AdviceServer, found, on
from upkeep.findings import Outcome, Severity
from upkeep.postgres.advice.indexes import DUPLICATE, INVALID, UNUSED
from upkeep.postgres.advice.missing import MISSING, UNINDEXED

SERVER = AdviceServer

MOMENT = timedelta(seconds=1)


def schema(server: AdviceServer) -> None:
    for statement in (
        "create table parents (id int primary key)",
        "create table children (id int generated always as identity primary key, parent_id int references parents,"
        " email text unique, code int not null, tag text, note text, during int4range,"
        " exclude using gist (during with &&))",
        "create unique index children_code on children (code)",
        "alter table children replica identity using index children_code",
        "create index children_parent on children (parent_id, tag)",
        "create index children_tag on children (tag)",
        "create index children_note on children (note)",
        "insert into parents select i from generate_series(1, 2000) as i",
        "insert into children (parent_id, code, tag, note) select i, i, 'tag ' || i, 'note ' || i"
        " from generate_series(1, 2000) as i",
        "analyze parents, children",
    ):
        server(statement)


def scan(server: AdviceServer, column: str) -> None:
    server(f"set enable_seqscan = off; select count(*) from children where {column} = 'x'")


def verdicts(outcome: Outcome) -> dict[str, str]:
    return {row["index"]: row["verdict"] for row in outcome.facts["never_scanned"]}


def test_only_what_serves_nothing_else_is_called_unused(server: AdviceServer) -> None:
    schema(server)
    early = server.report("unused_indexes")[UNUSED]
    assert early.state == "ok"
    assert early.facts["too_early"] == 2
    said = verdicts(early)
    assert said["public.children_tag"] == said["public.children_note"] == "too early to say"
    assert said["public.children_parent"] == "supports a foreign key"
    assert said["public.children_email_key"] == said["public.children_during_excl"] == "constraint"
    assert said["public.children_code"] == "unique"
    server.earlier.clear()
    later = server.report("unused_indexes", later=MONTH)[UNUSED]
    assert set(found(later)) == {"public.children_tag", "public.children_note"}
    finding = found(later)["public.children_tag"]
    assert finding.severity == Severity.P4
    assert 'drop index concurrently "public"."children_tag";' in finding.hint


@on(15, 17)
def test_an_index_in_use_is_not_called_unused_and_one_forgotten_is(server: AdviceServer) -> None:
    schema(server)
    scan(server, "note")
    server.report("unused_indexes", observed=MOMENT)
    time.sleep(1.2 * MOMENT.total_seconds())
    scan(server, "tag")
    unused = server.report("unused_indexes", observed=MOMENT)[UNUSED]
    assert set(found(unused)) == {"public.children_note"}, "scanned once, but not for a while"
    assert "1 scan, the last before" in found(unused)["public.children_note"].summary
    scan(server, "note")
    assert "public.children_note" not in found(server.report("unused_indexes", observed=MOMENT)[UNUSED])


def test_a_reset_of_the_statistics_and_a_new_index_begin_the_time_anew(seventeen: AdviceServer) -> None:
    server = seventeen
    schema(server)
    server.report("unused_indexes")
    time.sleep(MOMENT.total_seconds())
    server("create index children_late on children (id, note)")
    unused = server.report("unused_indexes", observed=MOMENT)[UNUSED]
    assert set(found(unused)) == {"public.children_tag", "public.children_note"}
    assert verdicts(unused)["public.children_late"] == "too early to say"
    server.superuser("select pg_stat_reset()")
    reset = server.report("unused_indexes", observed=MOMENT)[UNUSED]
    assert reset.state == "ok"
    assert reset.facts["too_early"] == 3


@on(17)
def test_a_partitioned_index_is_one_index(server: AdviceServer) -> None:
    for statement in (
        "create table p (id int, at int) partition by range (at)",
        "create table p1 partition of p for values from (0) to (10)",
        "create table p2 partition of p for values from (10) to (20)",
        "create index p_at on p (at)",
        "create index p_id on p (id)",
        "insert into p select i, i % 20 from generate_series(1, 1000) as i",
    ):
        server(statement)
    server("set enable_seqscan = off; select count(*) from p where id = 5")
    outcome = server.report("unused_indexes")[UNUSED]
    assert verdicts(outcome) == {"public.p_at": "too early to say"}, "the scans of parts count for the whole"


def test_a_standby_is_asked_and_one_that_cannot_be_is_named(seventeen: AdviceServer) -> None:
    server = seventeen
    schema(server)
    name = f"{server.name}_standby"
    servers.start_standby(server.home, server.name, name)
    try:
        there = make_conninfo(server.conninfo, port=server.home.facts(name)["port"])
        head = server.superuser("select pg_current_wal_lsn()")[0][0]
        with servers.superuser(server.home, name) as standby:
            reached = f"select pg_last_wal_replay_lsn() >= '{head}'"
            processes.wait_until(lambda: bool(standby.execute(reached).fetchone() == (True,)), 10, "replay")
        # Where it streams from, on the primary's port, the primary itself answers: that is no standby.
        unasked = found(server.report("unused_indexes", later=MONTH)[UNUSED])
        assert set(unasked) == {"public.children_tag", "public.children_note"}
        assert "1 standby could not be asked" in unasked["public.children_tag"].summary
        server.earlier.clear()
        server.standbys = (there,)
        time.sleep(1.2 * MOMENT.total_seconds())
        with psycopg.connect(there, autocommit=True) as reader:
            reader.execute("set enable_seqscan = off")
            reader.execute("select count(*) from children where tag = 'x'")
        asked = server.report("unused_indexes", observed=MOMENT)[UNUSED]
        assert asked.facts["standbys_asked"] == 1
        assert set(found(asked)) == {"public.children_note"}
    finally:
        processes.stop(server.home, name)
        server.superuser("select pg_drop_replication_slot(slot_name) from pg_replication_slots where not active")


@on(17)
def test_duplicates_and_beginnings_are_found_and_what_differs_is_not(server: AdviceServer) -> None:
    for statement in (
        "create table t (id int primary key, a int, b int, c text)",
        "create index t_a on t (a)",
        "create index t_a_again on t (a)",
        "create index t_ab on t (a, b)",
        "create index t_id on t (id)",
        "create index t_lower on t (lower(c))",
        "create index t_lower_again on t (lower(c))",
        # Not the same:
        "create index t_a_some on t (a) where b > 5",
        "create index t_b_down on t (b desc)",
        "create index t_b_up on t (b)",
        "create index t_b_brin on t using brin (b)",
        "create unique index t_c on t (c)",
        "create index t_c_pattern on t (c text_pattern_ops)",
        "create index t_ba on t (b desc, a) include (c)",
        "create unique index t_b_b on t (b, c, a)",
    ):
        server(statement)
    server("set enable_seqscan = off; select count(*) from t where a = 1; select count(*) from t where lower(c) = 'x'")
    redundant = found(server.report("unused_indexes")[DUPLICATE])
    kept = {finding.object.partition(".")[2]: finding.facts["kept"].partition(".")[2] for finding in redundant.values()}
    assert kept.pop("t_id") == "t_pkey"
    assert kept.pop("t_b_up") == "t_b_b"
    assert kept.pop("t_b_down") == "t_ba"
    lower = {"t_lower", "t_lower_again"} & set(kept)
    assert len(lower) == 1
    assert kept.pop(lower.pop()) in ("t_lower", "t_lower_again")
    assert set(kept) == {"t_a", "t_a_again"}, "one is the other's twin, the other the beginning of t_ab"
    assert "t_ab" in kept.values()
    for name in ("t_a", "t_a_again", "t_id", "t_b_up", "t_b_down", "t_lower"):
        server(f"drop index {name}")
    assert server.report("unused_indexes")[DUPLICATE].state == "ok"


@on(17)
def test_an_invalid_index_is_found_until_it_is_built_anew(server: AdviceServer) -> None:
    server("create table t (a int)")
    server("insert into t values (1), (1)")
    with contextlib.suppress(psycopg.errors.UniqueViolation):
        server("create unique index concurrently t_a on t (a)")
    (finding,) = found(server.report("unused_indexes")[INVALID]).values()
    assert (finding.object, finding.severity) == ("public.t_a", Severity.P2)
    server("delete from t where ctid = '(0,1)'")
    server(finding.hint.partition(": ")[2])
    assert server.report("unused_indexes")[INVALID].state == "ok"


# -- missing -------------------------------------------------------------------------------------------


def customers(server: AdviceServer) -> None:
    for statement in (
        "create table orders (id int primary key, customer int, kind text, note text)",
        "insert into orders select i, i % 5000, 'kind ' || i % 3, repeat('x', 40) from generate_series(1, 60000) as i",
        "create table small (id int, customer int)",
        "insert into small select i, i from generate_series(1, 100) as i",
        "analyze orders, small",
    ):
        server(statement)


def ask(server: AdviceServer, *statements: str) -> None:
    with psycopg.connect(server.owner, autocommit=True) as connection:
        for number in range(12):
            for statement in statements:
                connection.execute(statement.format(number))  # type: ignore[call-overload]


def missing(server: AdviceServer) -> Outcome:
    return server.report("stale_statistics")[MISSING]


@on(15, 18)
def test_a_big_filtered_table_is_told_with_its_column_and_a_small_one_never(server: AdviceServer) -> None:
    customers(server)
    ask(
        server,
        "select * from orders where customer = {}",
        "select * from small where customer = {}",
        "select * from orders as o where o.kind = 'kind {}'",
    )
    before = server("select count(*) from pg_indexes")
    first = missing(server)
    assert set(found(first)) == {"public.orders"}
    finding = found(first)["public.orders"]
    assert [each["column"] for each in finding.facts["columns"]] == ["customer"], "a third of the rows needs no index"
    assert "which selects 12 rows: select * from orders where customer = $1" in finding.summary
    assert server("select count(*) from pg_indexes") == before, "advice only"
    server("create index orders_customer on orders (customer)")
    ask(server, "select * from orders where customer = {}")
    assert missing(server).state == "ok"


@on(17)
def test_parts_of_a_table_are_spoken_of_by_the_name_of_the_whole(server: AdviceServer) -> None:
    server("create table orders (id int, customer int) partition by range (id)")
    server("create table orders_1 partition of orders for values from (0) to (100000)")
    server("insert into orders select i, i % 5000 from generate_series(1, 30000) as i")
    server("analyze orders")
    ask(server, "select * from orders where customer = {}")
    assert set(found(missing(server))) == {"public.orders_1"}


@on(15, 18)
def test_a_foreign_key_without_an_index_is_told_when_referenced_rows_are_deleted(server: AdviceServer) -> None:
    for statement in (
        "create table users (id int primary key)",
        "create table orders (id int primary key, user_id int references users, gift_of int references users,"
        " note text)",
        "create index orders_gift_of on orders (gift_of, id)",
        "insert into users select i from generate_series(1, 100) as i",
        "insert into orders select i, i % 90 + 1, null, repeat('x', 60) from generate_series(1, 20000) as i",
        "analyze",
    ):
        server(statement)
    assert server.report("stale_statistics")[UNINDEXED].state == "ok", "nobody deletes there"
    server("delete from users where id > 98")
    (finding,) = found(server.report("stale_statistics")[UNINDEXED]).values()
    assert finding.object == "public.orders orders_user_id_fkey"
    assert "2 rows of public.users deleted, and each read all of public.orders (20,000 rows" in finding.summary
    server("create index on orders (user_id)")
    assert server.report("stale_statistics")[UNINDEXED].state == "ok"


@on(17)
def test_a_report_that_wants_every_row_is_no_reason_for_an_index(server: AdviceServer) -> None:
    customers(server)
    ask(server, "select kind, count(*), {} from orders group by kind")
    outcome = missing(server)
    assert outcome.state == "ok"
    assert outcome.facts["read_whole"] == 1


def test_without_the_statements_the_scans_alone_are_told(seventeen: AdviceServer) -> None:
    server = seventeen
    customers(server)
    ask(server, "select * from orders where customer = {}")
    server.superuser("drop extension pg_stat_statements")
    try:
        finding = found(missing(server))["public.orders"]
        assert "which statements do it is not known: pg_stat_statements is not in this database" in finding.summary
    finally:
        server.superuser("create extension pg_stat_statements")


@pytest.mark.parametrize(
    ("condition", "looked_for"),
    {
        "customer = $1": True,
        "o.customer=$1": True,
        '"customer" = any($1)': True,
        "o.customer in ($1, $2)": True,
        "customer::int = $1": True,
        "customer > $1": False,
        "other_customer = $1": False,
        "customer_id = $1": False,
        "customer = o.id": False,
        "customer is null": False,
    }.items(),
)
def test_which_conditions_an_index_would_serve(condition: str, looked_for: bool) -> None:
    from upkeep.postgres.advice.missing import _compares

    assert _compares(f"select customer from orders as o\nWHERE true and {condition}", "customer") is looked_for
    assert not _compares("update orders set customer = $1 where id = $2", "customer")
