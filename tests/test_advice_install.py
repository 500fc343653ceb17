"""The views and the function that the handbooks ask for: installed by the owner role, read by the maintenance role."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from sandbox import processes
from sandbox.home import REPOSITORY
from sandbox.servers import postgres as servers
from tests.advice_server import AdviceServer
from tests.postgres_server import DATABASE

SERVER = AdviceServer

INSTALL = REPOSITORY / "include" / "sql" / "postgres" / "install"


@pytest.fixture
def installed(server: AdviceServer) -> Iterator[AdviceServer]:
    # Twice: whoever upgrades Upkeep installs them again.
    for _ in range(2):
        for file in sorted(INSTALL.glob("*.sql")):
            with psycopg.connect(role(server, "upkeep_owner"), autocommit=True) as owner:
                owner.execute(file.read_bytes())
    yield server
    with psycopg.connect(role(server, "upkeep_owner"), autocommit=True) as owner:
        owner.execute(
            "drop view upkeep.database_performance, upkeep.slow_queries;"
            "drop function upkeep.statements(), upkeep.get_database_performance(interval)"
        )


def role(server: AdviceServer, name: str) -> str:
    return servers.dsn(server.home, server.name, name, DATABASE)


def read(server: AdviceServer, statement: str) -> list[tuple[Any, ...]]:
    """As the maintenance role."""
    with psycopg.connect(server.conninfo, autocommit=True) as connection:
        return connection.execute(statement).fetchall()  # type: ignore[call-overload,no-any-return]


def performance(server: AdviceServer, over: str = "0") -> dict[str, tuple[Any, str, Any]]:
    rows = read(server, f"select * from upkeep.get_database_performance('{over}')")
    return {name: (value, unit, since) for name, value, unit, since in rows}


def waits(server: AdviceServer) -> None:
    with contextlib.suppress(psycopg.errors.LockNotAvailable):
        server("set lock_timeout = '5s'; select * from t")


def test_the_view_counts_sessions_and_those_that_wait(installed: AdviceServer) -> None:
    def now() -> dict[str, Any]:
        return {metric: value for metric, value, _ in read(installed, "table upkeep.database_performance")}

    installed("create table t (id int)")
    waiting = threading.Thread(target=waits, args=(installed,))
    with installed.session("lock table t"):
        waiting.start()
        processes.wait_until(lambda: now()["sessions_waiting_for_a_lock"] == 1, 5, "somebody to wait")
        rows = now()
        assert rows["sessions_idle_in_transaction"] == 1
        assert rows["sessions"] == 2
        assert rows["database_size"] > 5_000_000
    waiting.join()
    assert now()["sessions_waiting_for_a_lock"] == 0


def test_a_slow_query_is_in_the_view_and_a_quick_one_is_not(installed: AdviceServer) -> None:
    installed("select pg_sleep(1.05) as nap")
    installed("select 1 as quick")
    ((query, calls, mean_ms),) = read(
        installed,
        "select query, calls, mean_ms from upkeep.slow_queries where query like '%nap%' or query like '%quick%'",
    )
    assert (query, calls) == ("select pg_sleep($1) as nap", 1)
    assert mean_ms > 1000
    assert read(installed, "select sum(time_share) from upkeep.statements()")[0][0] == pytest.approx(1)


def test_the_view_stands_in_nobodys_way_and_says_what_is_missing(installed: AdviceServer) -> None:
    installed.superuser("drop extension pg_stat_statements")
    try:
        with pytest.raises(psycopg.errors.UndefinedObject, match="create extension pg_stat_statements"):
            read(installed, "table upkeep.slow_queries")
    finally:
        installed.superuser("create extension pg_stat_statements")
    assert isinstance(read(installed, "table upkeep.slow_queries"), list)


def test_after_a_reset_there_is_no_data_and_no_error(installed: AdviceServer) -> None:
    installed("create table t as select generate_series(1, 20000) as i")
    assert 0 < performance(installed)["cache_hit_ratio"][0] <= 100
    installed.administer("select pg_stat_reset()")
    after = performance(installed)
    assert after["cache_hit_ratio"][0] is None or 0 <= after["cache_hit_ratio"][0] <= 100
    assert after["cache_hit_ratio"][2] is not None, "since the reset"
    assert after["wal_rate"][0] is None


def test_it_counts_over_an_interval(installed: AdviceServer) -> None:
    installed("create table t as select generate_series(1, 20000) as i")
    before = performance(installed)
    busy = threading.Timer(0.1, installed, ["select count(*) from t"])
    busy.start()
    now = performance(installed, "600 ms")
    busy.join()
    assert 1 <= now["commits"][0] < before["commits"][0]
    assert now["cache_hit_ratio"][0] > 90
    assert now["wal_rate"][0] >= 0
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="0 to 60 seconds"):
        performance(installed, "2 min")


def test_the_application_may_not_read_them(installed: AdviceServer) -> None:
    for statement in ("table upkeep.slow_queries", "select upkeep.get_database_performance()"):
        with (
            psycopg.connect(role(installed, "app"), autocommit=True) as app,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            app.execute(statement)
