"""Slow statements: the injected one tops, a reset makes nothing negative, and nobody's literals leave the database."""

from __future__ import annotations

from typing import Any

import pytest

from tests.advice_server import AdviceServer, found, on
from upkeep.findings import Outcome
from upkeep.postgres.advice.statements import SLOW, SLOWER
from upkeep.postgres.advice.text import without_literals

SERVER = AdviceServer

SHORT: dict[str, Any] = {"slow_query": "10ms", "least_calls": 10}
TIMES = 12


def top(outcome: Outcome) -> list[dict[str, Any]]:
    return list(outcome.facts["by_total_time"])


def slowly(server: AdviceServer, seconds: float, times: int = TIMES) -> None:
    for _ in range(times):
        server(f"select pg_sleep({seconds}) as nap")


def test_an_injected_slow_query_tops_and_is_gone_when_healed(server: AdviceServer) -> None:
    server("create table t (id int primary key)")
    for _ in range(3 * TIMES):
        server("select count(*) from t")
    slowly(server, 0.012)
    first = server.report("slow_queries", **SHORT)[SLOW]
    (finding,) = found(first).values()
    assert "select pg_sleep($1) as nap" in finding.summary
    row = top(first)[0]
    assert row["statement"] == "select pg_sleep($1) as nap"
    assert row["calls"] == TIMES
    assert row["time_share"] > 0.5
    # A busy machine wakes sleepers late, never early.
    assert row["mean_s"] >= 0.012
    assert {"hit_share", "blocks_per_call", "temp_blocks", "wal_bytes", "rows_per_call"} <= set(row)
    for _ in range(TIMES):
        server("select count(*) from t")
    healed = server.report("slow_queries", **SHORT)[SLOW]
    assert healed.state == "ok"
    assert [row["statement"] for row in top(healed)] == ["select count(*) from t"]
    assert top(healed)[0]["calls"] == TIMES, "what happened before the last look is no news"


def test_after_a_reset_nothing_is_negative_and_the_time_is_said(server: AdviceServer) -> None:
    slowly(server, 0.011, 20)
    first = server.report("slow_queries", **SHORT)[SLOW]
    server.superuser("select pg_stat_statements_reset()")
    slowly(server, 0.011, 3)
    second = server.report("slow_queries", **SHORT)[SLOW]
    (row,) = [row for row in top(second) if "pg_sleep" in row["statement"]]
    assert row["calls"] == 3
    assert all(value >= 0 for value in row.values() if isinstance(value, (int, float)))
    assert second.facts["since"] > first.facts["since"], "since the reset, not since the last look"
    # One statement alone is reset: only its own counters began anew.
    server.superuser(
        "select pg_stat_statements_reset(userid, dbid, queryid) from pg_stat_statements where query like '%nap%'"
    )
    slowly(server, 0.011, 2)
    (row,) = [row for row in top(server.report("slow_queries")[SLOW]) if "pg_sleep" in row["statement"]]
    assert row["calls"] == 2


@on(17)
def test_what_became_slower_is_told_once(server: AdviceServer) -> None:
    slowly(server, 0.002)
    assert server.report("slow_queries", **SHORT)[SLOWER].state == "ok"
    slowly(server, 0.012)
    slower = server.report("slow_queries", **SHORT)[SLOWER]
    (finding,) = found(slower).values()
    assert "times the" in finding.summary
    assert finding.facts["mean_s_before"] < 0.006
    slowly(server, 0.012)
    assert server.report("slow_queries", **SHORT)[SLOWER].state == "ok", "that is what it takes now"


BLIND = {
    # fault: (said, cure)
    "drop extension pg_stat_statements cascade": ("is not in this database", "create extension pg_stat_statements;"),
    "revoke pg_monitor from upkeep": ("hidden from this one", 'grant pg_read_all_stats to "upkeep";'),
}


@on(17)
@pytest.mark.parametrize("fault", BLIND)
def test_what_cannot_be_read_is_unknown_and_the_cure_is_said(fault: str, server: AdviceServer) -> None:
    said, cure = BLIND[fault]
    try:
        server.superuser(fault)
        outcomes = server.report("slow_queries")
        assert outcomes[SLOW].state == outcomes[SLOWER].state == "unknown"
        assert outcomes[SLOWER].explained_by == SLOW
        assert said in outcomes[SLOW].reason
        server.superuser(outcomes[SLOW].facts["cure"].removeprefix("as a superuser: "))
        assert cure in outcomes[SLOW].reason
        assert server.report("slow_queries")[SLOW].state == "ok"
    finally:
        server.administer(
            "create extension if not exists pg_stat_statements",
            "grant pg_monitor to upkeep",
            "revoke pg_read_all_stats from upkeep",
        )


def test_an_extension_older_than_its_server_is_read_all_the_same(server: AdviceServer) -> None:
    try:
        server.administer("drop extension pg_stat_statements", "create extension pg_stat_statements version '1.8'")
        slowly(server, 0.011)
        outcome = server.report("slow_queries", **SHORT)[SLOW]
        assert top(outcome)[0]["statement"] == "select pg_sleep($1) as nap"
        assert outcome.facts["since"] is None
    finally:
        server.administer("alter extension pg_stat_statements update")


def test_the_extension_may_live_in_any_schema(seventeen: AdviceServer) -> None:
    server = seventeen
    try:
        server.administer(
            "drop extension pg_stat_statements",
            'create schema "Odd Place"',
            'create extension pg_stat_statements schema "Odd Place"',
        )
        slowly(server, 0.011)
        assert found(server.report("slow_queries", **SHORT)[SLOW])
    finally:
        server.administer('drop schema "Odd Place" cascade', "create extension pg_stat_statements")


@on(15, 18)
def test_literals_of_statements_that_postgres_keeps_are_taken_out(server: AdviceServer) -> None:
    server("create table t (id int, note text)")
    server("comment on table t is 'Jane Doe, born 1984-05-23'")
    server("do $body$ begin perform 'hunter2'; end $body$")
    facts = str(server.report("slow_queries", least_calls=1)[SLOW].facts)
    assert "comment on table t is ?" in facts
    for secret in ("Jane", "1984", "hunter2"):
        assert secret not in facts


@pytest.mark.parametrize(
    ("statement", "said"),
    {
        "select * from t where a = $1 and b in ($2, $3)": "select * from t where a = $1 and b in ($2, $3)",
        "select 'it''s', E'a\\'b', $$x$$, $q$ y $z$ $q$, x'1F', U&'d', 12, 1.5e3, a1 from \"T 1\"": (
            "select ?, ?, ?, ?, ?, ?, ?, ?, a1 from \"T 1\""
        ),
        "alter role x password 'hunter2'": "alter role x password ?",
        "select 1 -- user=jane\n/* traceparent='00-1' */ from t": "select ? from t",
        "copy t from '/home/jane/never ends": "copy t from ?",
        "select 1 /* never ends": "select ?",
        "insert into t values (-1, 'a')": "insert into t values (-?, ?)",
    }.items(),
)  # fmt: skip
def test_no_literal_and_no_comment_survives(statement: str, said: str) -> None:
    assert without_literals(statement) == said
