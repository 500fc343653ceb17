"""What ``python -m upkeep plan`` says about rebuilds: as the window would do it, without doing anything."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from sandbox import __main__ as sandbox
from tests.reindex_server import SETTINGS, ReindexServer, bloated
from upkeep.ledger import Ledger
from upkeep.plan import Asked, Planned, Slot
from upkeep.platforms import platform
from upkeep.postgres.reindex import plan
from upkeep.postgres.reindex.choose import cheap_pass
from upkeep.postgres.session import connect


@pytest.fixture(scope="module")
def only() -> Iterator[ReindexServer]:
    with sandbox.temporary() as home:
        yield ReindexServer(home, 17, max_locks_per_transaction=1024)


@pytest.fixture
def server(only: ReindexServer) -> ReindexServer:
    return only.empty()


def ask(server: ReindexServer, ledger: Ledger | None, *lengths_s: float) -> list[Planned]:
    """:param lengths_s: of the coming monthly windows."""
    studyspot = platform("studyspot")
    assert studyspot.postgres
    subject = studyspot.model_copy(update={"postgres": studyspot.postgres.model_copy(update={"reindex": SETTINGS})})
    now = datetime.now(UTC)
    slots = [
        Slot("monthly", now + timedelta(days=30 * number), timedelta(seconds=length_s))
        for number, length_s in enumerate(lengths_s)
    ]
    slots.insert(0, Slot("daily", now, timedelta(hours=1)))
    asked = Asked(platform=subject, slots=slots, maintenance=server.conninfo, owner=server.upkeep_owner, ledger=ledger)
    return plan.coming(asked)


def test_the_plan_is_what_the_window_would_do_and_changes_nothing(server: ReindexServer, ledger: Ledger) -> None:
    bloated(server, "bookings")
    server("create index bookings_note_ccnew on bookings (note)")
    server.superuser("update pg_index set indisvalid = false where indexrelid = 'bookings_note_ccnew'::regclass")
    before = server.indexes()
    said = ask(server, ledger, 3600)
    assert [(one.act, one.object, one.left_out) for one in said] == [
        ("DROP INDEX CONCURRENTLY", "public.bookings_note_ccnew", ""),
        ("REINDEX INDEX CONCURRENTLY", "public.bookings_note", ""),
        ("REINDEX INDEX CONCURRENTLY", "public.bookings_pkey", ""),
    ]
    assert said[1].because.endswith("would be freed (by sample)")
    assert said[1].seconds
    assert said[1].slot.name == "monthly"
    assert server.indexes() == before
    assert ledger.rows("select from index_baselines") == []
    assert [one.object for one in ask(server, None, 3600)] == [one.object for one in said], "the ledger may be away"
    assert ask(server, ledger) == []


def test_what_one_window_has_no_room_for_is_left_to_the_next(server: ReindexServer, ledger: Ledger) -> None:
    bloated(server, "bookings")
    first, second = (one.seconds or 0 for one in ask(server, ledger, 3600))
    room = 1.3 * max(first, second)
    said = ask(server, ledger, room, room)
    assert len({one.slot.starts for one in said}) == 2
    assert [one.left_out for one in said] == ["", ""]
    said = ask(server, ledger, room)
    assert [one.left_out for one in said] == ["", "the window has no room for it"]


@pytest.mark.soak
def test_three_thousand_indexes_are_looked_over_in_no_time(server: ReindexServer, ledger: Ledger) -> None:
    server(
        "do $$ begin for i in 1..1000 loop"
        " execute format('create table t%s (id int primary key, a int unique, b text)', i);"
        " execute format('create index on t%s (b)', i); end loop; end $$"
    )
    bloated(server, "bookings")
    with connect(server.conninfo) as connection:
        began = time.monotonic()
        assert {row["name"] for row in cheap_pass(connection, SETTINGS)} == {"bookings_note", "bookings_pkey"}
        assert time.monotonic() - began < 0.3
    server("do $$ begin for i in 1..1000 loop execute format('drop table t%s', i); end loop; end $$")
