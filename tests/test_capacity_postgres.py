"""What is sampled of a PostgreSQL server, on every version; and how a source that hangs is told."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from tests.postgres_server import PostgresServer, table
from upkeep.capacity.sampling import postgres
from upkeep.capacity.sampling.measured import CHECK, Collection, Measured, NotMeasured
from upkeep.health.side_by_side import look_side_by_side
from upkeep.platforms.growth import Growth

TODAY = datetime.now(UTC).date()


def measured(found: object) -> dict[str, Measured]:
    return {f"{one.metric} {one.object}".strip(): one for one in found}  # type: ignore[attr-defined]


def test_sizes_are_those_of_the_server_and_partitions_count_for_their_table(server: PostgresServer) -> None:
    table(server, "notes", 5_000)
    server("create table events (id int, at date) partition by range (at)")
    for year in (2025, 2026):
        server(f"create table events_{year} partition of events for values from ('{year}-01-01') to ('{year}-12-31')")
        server(f"insert into events select i, '{year}-05-05' from generate_series(1, 20000) as i")
    server("create index on events (id)")
    server('create schema "Odd one"')
    server('create table "Odd one"."Ta.ble" as select 1 as one')
    found = measured(postgres.relations(server.conninfo))
    ((parts,),) = server("select pg_table_size('events_2025') + pg_table_size('events_2026')")
    assert found["table_bytes public.events"].value == parts
    assert found["index_bytes public.events_id_idx"].value > 0
    assert "table_bytes public.events_2025" not in found
    assert found["table_bytes Odd one.Ta.ble"].value > 0
    assert not [name for name in found if "pg_" in name]
    whole = measured(postgres.database(server.conninfo, lambda: 1e9, 5e9))
    size = whole["database_bytes studyspot"]
    assert size.most == size.value + 1e9, "what is left counts, and what the platform file says only without it"
    assert whole["wal_bytes"].value >= 16 * 1024**2
    assert 1 <= whole["connections"].value < (whole["connections"].most or 0)
    assert measured(postgres.database(server.conninfo, lambda: None, 5e9))["database_bytes studyspot"].most == 5e9


def test_rows_are_counted_with_those_of_yesterday_and_a_day_without_any_is_a_zero(server: PostgresServer) -> None:
    yesterday = TODAY - timedelta(days=1)
    server("create table guests (id int, at timestamptz, plain timestamp)")
    moments = [
        f"{yesterday} 00:00:00+00",
        f"{yesterday} 23:59:59.9+00",
        f"{TODAY} 00:00:00+00",
        "2020-01-01 00:00:00+00",
    ]
    for moment in moments:
        server("insert into guests values (1, %s, %s::timestamptz at time zone 'UTC')", moment, moment)
    for column in ("at", "plain"):
        found = measured(postgres.growth(server.conninfo, Growth(name="g", table="guests", column=column), TODAY))
        assert (found["rows g"].value, found["new_rows g"].value, found["new_rows g"].days_ago) == (4, 2, 1)
    server("delete from guests where at >= %s", yesterday)
    found = measured(postgres.growth(server.conninfo, Growth(name="g", table="public.guests", column="at"), TODAY))
    assert (found["rows g"].value, found["new_rows g"].value) == (1, 0)


def test_a_large_table_is_estimated(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    table(server, "notes", 5_000)
    server("insert into notes select i, repeat('x', 50) from generate_series(5001, 10000) as i")
    monkeypatch.setattr(postgres, "MOST_COUNTED", 1_000)
    found = measured(postgres.growth(server.conninfo, Growth(name="n", table="notes", column="note"), TODAY))
    assert found["rows n"].value == pytest.approx(10_000, rel=0.1), "also of rows that came after the last ANALYZE"
    assert "new_rows n" not in found


def test_a_table_that_may_not_be_read_says_what_to_grant(seventeen: PostgresServer) -> None:
    seventeen("create table secrets (at timestamptz)")
    seventeen.superuser("revoke pg_read_all_data from upkeep")
    seventeen.superuser("revoke pg_maintain from upkeep")
    try:
        with pytest.raises(NotMeasured, match="permission denied for table secrets"):
            list(postgres.growth(seventeen.conninfo, Growth(name="s", table="secrets", column="at"), TODAY))
    finally:
        seventeen.superuser("grant pg_read_all_data, pg_maintain to upkeep")


def test_a_source_that_hangs_is_told_as_a_whole_and_its_answer_ends_that() -> None:
    let_go = threading.Event()

    def hangs() -> list[Measured]:
        let_go.wait(20)
        return [Measured(metric="rows", object="b", value=1)]

    collection = Collection()
    sources = {"a": lambda: [Measured(metric="rows", object="a", value=1)], "b": hangs}
    outcomes = look_side_by_side([collection.probe("growth", sources)], deadline_s=0.5)
    assert [(one.check, one.object, one.state) for one in outcomes] == [(CHECK, "growth", "unknown")]
    assert collection.of(outcomes) == [], "what it brought before it hung came without an outcome"
    let_go.set()
    again = look_side_by_side([collection.probe("growth", sources)], deadline_s=20)
    assert [(one.object, one.state) for one in again] == [("growth", "ok"), ("a", "ok"), ("b", "ok")]
    assert {one.object for one in collection.of(again)} == {"a", "b"}


def test_what_is_no_number_is_left_out_and_a_stumble_is_tried_again() -> None:
    tries: list[int] = []

    def stumbles() -> list[Measured]:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError("reset by peer")
        return [Measured(metric="rows", object=name, value=value) for name, value in (("a", 1.0), ("b", float("nan")))]

    collection = Collection()
    outcomes = look_side_by_side([collection.probe("one", {"one": stumbles})], deadline_s=20)
    assert [one.state for one in outcomes] == ["ok"]
    assert [one.object for one in collection.of(outcomes)] == ["a"]
