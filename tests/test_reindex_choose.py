"""Which indexes are chosen: how bloat is told, with and without the right to look, and what is left alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from sandbox.home import REPOSITORY
from tests.postgres_server import VERSIONS
from tests.reindex_server import KINDS, SETTINGS, ReindexServer, bloated, nine_kinds
from upkeep.errors import SettingsError
from upkeep.ledger import Ledger
from upkeep.postgres.reindex import choose as choosing
from upkeep.postgres.reindex import history, wording
from upkeep.postgres.reindex.bloat import Looker
from upkeep.postgres.session import connect

SQL = sorted((REPOSITORY / "include/sql/postgres/reindex").glob("*.sql"))

SERVER = ReindexServer


@pytest.fixture
def server(seventeen: ReindexServer) -> ReindexServer:
    return seventeen


ON = [17, *(pytest.param(version, marks=pytest.mark.soak) for version in VERSIONS if version != 17)]


@pytest.fixture(params=ON)
def any_version(each: Callable[..., ReindexServer], request: pytest.FixtureRequest) -> ReindexServer:
    return each(request.param, ReindexServer).empty()


def look(server: ReindexServer, *, sampling: bool = True) -> dict[str, float]:
    """Bloat of every index, in percent, as the maintenance role sees it."""
    with connect(server.conninfo) as connection:
        looker = Looker(connection)
        seen = {}
        for row in choosing.cheap_pass(connection, SETTINGS.model_copy(update={"wasted": 0})):
            if row["schema"] != "public":
                continue
            if not sampling:
                looker.may_sample, looker.may_scan = False, looker._find_pgstatindex()
            measured = looker.look(row)
            assert measured
            assert measured.by == ("sample" if sampling else "scan")
            seen[row["name"]] = measured.bloat * 100
        return seen


def test_bloat_of_nine_kinds_of_index_is_told_within_three_points(any_version: ReindexServer) -> None:
    server = any_version
    nine_kinds(server, 40_000 if server.version == 17 else 100_000)
    truth = {
        name: 100 * (1 - density / 90)
        for name, density in server.superuser(
            "select c.relname, s.avg_leaf_density from pg_class as c, pgstatindex(c.oid::regclass) as s"
            " where c.relname like 'ev\\_%' and c.relkind = 'i'"
        )
    }
    assert set(truth) == {f"ev_{kind}" for kind in KINDS}
    assert min(truth.values()) > 30, "all of them are bloated"
    assert look(server) == pytest.approx(truth, abs=3)
    assert look(server, sampling=False) == pytest.approx(truth, abs=0.1)
    server("reindex table ev")
    assert max(look(server).values()) < 6, "freshly built ones are not"


def test_the_bloated_are_chosen_and_the_fresh_are_not(server: ReindexServer, ledger: Ledger) -> None:
    bloated(server, "bookings")
    server("create table seats as select i as id, md5(i::text) as note from generate_series(1, 20000) as i")
    server("create index seats_note on seats (note)")
    server("vacuum analyze seats")
    choice = server.choose(ledger)
    assert {one.index for one in choice.candidates} == {"public.bookings_pkey", "public.bookings_note"}
    assert choice.looked == 3
    best = choice.candidates[0]
    assert (best.index, best.by, best.fits) == ("public.bookings_note", "sample", True)
    assert best.bloat == pytest.approx(0.8, abs=0.05)
    assert best.wasted == pytest.approx(best.bloat * best.bytes, rel=0.01)
    assert server.rebuild(ledger, "bookings_note")["state"] == "done"
    assert server.bytes("bookings_note") == pytest.approx(best.bytes - best.wasted, rel=0.2), "as predicted"
    assert {one.index for one in server.choose(ledger).candidates} == {"public.bookings_pkey"}


@pytest.mark.soak
def test_what_cannot_be_looked_into_is_never_rebuilt_at_first_sight(server: ReindexServer, ledger: Ledger) -> None:
    server("create table seats as select i as id, md5(i::text) as note from generate_series(1, 20000) as i")
    server("create index seats_note on seats (note)")
    server("create index seats_gin on seats using gin (to_tsvector('simple', note))")
    bloated(server, "bookings")
    server("vacuum analyze seats")
    server.superuser("revoke execute on function upkeep.sample_index_pages from upkeep")
    server.superuser("revoke pg_stat_scan_tables, pg_monitor from upkeep")
    try:
        first = server.choose(ledger)
        assert first.candidates == ()
        assert set(first.unconfirmed) >= {"public.bookings_note", "public.seats_note", "public.seats_gin"}
        (need, *_) = wording.chosen(first, "upkeep", 170000, [])
        assert "permission denied for function sample_index_pages" in need.findings[0].hint
        assert server.choose(ledger).candidates == (), "it was seen bloated, and is no worse"
        # Against itself: three of four rows go.
        server("delete from seats where id % 4 > 0")
        server("vacuum seats")
        chosen = {one.index: one for one in server.choose(ledger).candidates}
        assert set(chosen) == {"public.seats_note", "public.seats_gin"}
        assert {one.by for one in chosen.values()} == {"ratio"}
        assert chosen["public.seats_note"].bloat == pytest.approx(0.75, abs=0.02)
        # Old counts are counted again before anything is rebuilt.
        server.superuser("grant pg_monitor to upkeep")
        by_scan = {one.index: one.by for one in server.choose(ledger).candidates}
        assert by_scan["public.bookings_note"] == "scan"
    finally:
        server.superuser("grant execute on function upkeep.sample_index_pages to upkeep; grant pg_monitor to upkeep")


def test_an_index_that_refills_in_days_or_did_not_shrink_is_left_alone(server: ReindexServer, ledger: Ledger) -> None:
    bloated(server, "bookings")
    (note,) = [one for one in server.choose(ledger).candidates if one.name == "bookings_note"]
    known = history.baselines(ledger, "studyspot")["public.bookings_note"]

    def remember(days: float, freed: int) -> None:
        at = datetime.now(UTC) - timedelta(days=days)
        done = replace(
            known, rebuilt_at=at, estimated_bytes=note.wasted, freed_bytes=freed, bytes_after=note.bytes * 9 // 10
        )
        history.keep(ledger, "studyspot", {note.index: done})

    remember(3, note.wasted)
    choice = server.choose(ledger)
    assert note.index not in {one.index for one in choice.candidates}
    assert choice.refilled == {note.index: pytest.approx(3, abs=0.01)}
    (refill,) = [o for o in wording.chosen(choice, "upkeep", 170000, []) if o.check == wording.REFILL]
    assert refill.findings[0].summary == "bloated again 3.0 days after its rebuild"
    assert "fillfactor" in refill.findings[0].hint
    remember(11, note.wasted)
    assert note.index in {one.index for one in server.choose(ledger).candidates}
    remember(11, note.wasted // 3)
    choice = server.choose(ledger)
    assert choice.disappointing == (note.index,)
    assert note.index not in {one.index for one in choice.candidates}


def test_what_may_not_be_rebuilt_concurrently_is_not_looked_at(server: ReindexServer, ledger: Ledger) -> None:
    rows = "from generate_series(1, 20000) as i"
    server("create schema repack")
    server("create table repack.log as select md5(i::text) as note " + rows)
    server("create index repack_log on repack.log (note)")
    server("create table rooms (during int4range, exclude using gist (during with &&))")
    server("insert into rooms select int4range(i * 2, i * 2 + 1) " + rows)
    server("create table log as select i, md5(i::text) as note " + rows)
    server("create index log_brin on log using brin (i); create index log_note on log (note)")
    server("create table parts (id int, note text) partition by range (id)")
    server("create index parts_note on parts (note)")
    server("create table parts_1 partition of parts for values from (0) to (30000)")
    server("insert into parts select i, md5(i::text) " + rows)
    server("vacuum analyze repack.log, rooms, log, parts_1")
    with connect(server.conninfo) as connection:
        seen = choosing.cheap_pass(connection, SETTINGS.model_copy(update={"wasted": 0}))
    assert {row["name"] for row in seen if row["schema"] != "upkeep"} == {"log_note", "parts_1_note_idx"}


def test_rights_that_are_missing_are_named_with_their_grant(any_version: ReindexServer, ledger: Ledger) -> None:
    server = any_version
    bloated(server, "bookings")
    right = "pg_maintain" if server.version >= 17 else "app_owner"
    server.superuser(f"revoke {right} from upkeep")
    try:
        choice = server.choose(ledger)
        assert choice.candidates == ()
        (rights,) = [
            o for o in wording.chosen(choice, "upkeep", server.version * 10000, []) if o.check == wording.RIGHTS
        ]
        assert rights.findings[0].severity == "P2"
        assert rights.findings[0].hint == f"as a superuser: grant {right} to upkeep;"
    finally:
        server.superuser(f"grant {right} to upkeep")


def test_the_most_bytes_per_second_go_first_and_small_ones_fill_the_window() -> None:
    def one(name: str, seconds: float) -> choosing.Candidate:
        return choosing.Candidate(
            index=name, schema="s", name=name, oid=1, table="t", table_schema="s", table_name="t", method="btree",
            expression=False, bytes=1, rows=1, bloat=1, wasted=1, by="sample", work_bytes=1, seconds=seconds, value=1,
            fits=True,
        )  # fmt: skip

    packed = choosing.packed([one("a", 40), one("b", 50), one("c", 30), one("d", 20)], timedelta(seconds=100))
    assert [candidate.fits for candidate in packed] == [True, False, True, False], "80 of 100 s: 40 + 30"
    assert all(candidate.fits for candidate in choosing.packed(packed, None))


def test_speed_is_learned_and_each_index_has_its_own(ledger: Ledger) -> None:
    from tests.conftest import run

    assert history.speed(ledger, "studyspot").seconds("a", 50 * 1024**2) == pytest.approx(1.1)
    for index, seconds in (("a", 1), ("b", 4), ("c", 4)):
        with ledger.action(run(), "postgres", "reindex", index) as action:
            action.after = {"work_bytes": 1000, "seconds": seconds}
    speed = history.speed(ledger, "studyspot")
    assert speed.seconds("a", 1000) == pytest.approx(1.1)
    assert speed.seconds("new", 1000) == pytest.approx(4.1)


@pytest.mark.parametrize("version", [13, 14])
def test_versions_with_a_bug_in_the_way_are_refused(version: int) -> None:
    class Info:
        server_version = 140003 if version == 14 else 120009

    class Connection:
        info = Info()

    with pytest.raises(SettingsError, match="bug 17485" if version == 14 else "older than 13"):
        choosing.guard(Connection())  # type: ignore[arg-type]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_question_runs_as_the_least_role(each: Callable[..., ReindexServer], version: int) -> None:
    server = each(version, ReindexServer).empty()
    bloated(server, "bookings", 2000)
    (oid,) = server("select 'bookings_note'::regclass::oid::bigint")[0]
    values = {"index": oid, "most": 10, "pid": 1, "schema": "public", "name": "bookings", "least_bytes": 0}
    for role in (server.conninfo, server.upkeep_owner):
        with psycopg.connect(role, autocommit=True) as connection:
            for file in SQL:
                text = file.read_text()
                # Looking into indexes is the maintenance role's alone.
                if role == server.upkeep_owner and file.stem in ("sample", "scan"):
                    continue
                wanted = {name: values[name] for name in re.findall(r"%\((\w+)\)s", text)}
                connection.execute(text, wanted or None)  # type: ignore[call-overload]


def test_the_page_sampler_counts_bytes_for_the_maintenance_role_alone(any_version: ReindexServer) -> None:
    server = any_version
    bloated(server, "bookings", 2000)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        server("select * from upkeep.sample_index_pages('bookings_note', 10)")
    with psycopg.connect(server.conninfo, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.WrongObjectType, match="bookings is not a B-tree index"):
            connection.execute("select * from upkeep.sample_index_pages('bookings', 10)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select * from bt_page_stats('bookings_note', 1)")
        # A hostile search path does not lead it astray.
        connection.execute("create temporary table pg_class (oid oid, relkind char, relam oid)")
        row = connection.execute("select pages, leaves from upkeep.sample_index_pages('bookings_note', 10)").fetchone()
        assert row is not None
        assert min(row) > 0
    server("create index tiny on bookings (id) where id < 0")
    assert server.choose().looked >= 1
