"""Erased people stay erased: what retention deleted after a backup is deleted again in what is restored from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from sandbox.home import Home
from tests.conftest import fresh_ledger, run
from tests.restore_server import RestoreServer, emptied
from tests.retention_server import Nobody
from upkeep.backup.restore import job, places
from upkeep.backup.restore.choose import RefusedError
from upkeep.backup.restore.record import Restore
from upkeep.ledger import Ledger
from upkeep.platforms.database import Deletion, Retention, Table
from upkeep.postgres.session import connect
from upkeep.retention import deleting, dropping
from upkeep.retention import plan as planning
from upkeep.retention.records import Copier
from upkeep.retention.work import Record

FAST = Deletion(rest=0, least_rows=100, most_rows=100)
RULES = {
    "visits": Retention(column="at", keep="3y", hold="note = 'hold'"),  # type: ignore[arg-type]
    "persons": Retention(column="seen", keep="7y", only="state = 'inactive'"),  # type: ignore[arg-type]
    "prints": Retention(column="at", keep="1y", drop_partitions=True),  # type: ignore[arg-type]
}

DATA = """
create table persons (id int primary key, state text not null, seen timestamptz);
create table visits (id int primary key, person_id int references persons on delete cascade, at date, note text);
insert into persons select i, 'inactive', now() - i * interval '7 days' from generate_series(1, 400) as i;
insert into visits select i, 1 + i % case when i > 2500 then 400 else 300 end,
    (now() - i * interval '12 hours')::date, case when i % 45 = 0 then 'hold' end
from generate_series(1, 3000) as i;
create index on persons (seen);
create index on visits (at);
create index on visits (person_id);
create table prints (id int, at timestamp) partition by range (at);
create table prints_old partition of prints for values from ('2020-01-01') to ('2021-01-01');
create table prints_new partition of prints for values from ('2021-01-01') to ('2999-01-01');
create index on prints (at);
insert into prints select i, timestamp '2020-06-01' + i * interval '1 hour' from generate_series(1, 200) as i;
insert into prints select i, localtimestamp from generate_series(1, 20) as i;
"""


@pytest.fixture(scope="module")
def kept(control: Home) -> Iterator[dict[str, Any]]:
    with fresh_ledger(control) as made:
        yield made


@pytest.fixture
def ledger_conninfo(kept: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """One ledger for this file, emptied for each test."""
    return emptied(kept, monkeypatch)


@pytest.fixture
def server(each: Callable[..., Any]) -> RestoreServer:
    server: RestoreServer = each(17, RestoreServer).fresh()
    server(DATA)
    return server


def retain(server: RestoreServer, record: Record, plan: str = "a" * 64) -> dict[str, int]:
    """A run of retention: rows that went, by table."""
    gone = {}
    with connect(server.conninfo, settings={"TimeZone": "UTC"}) as connection:
        rules = [Table(name=name, retention=rule) for name, rule in RULES.items()]
        items = planning.make(connection, rules, now=datetime.now(UTC))
    for item in items:
        if item.due:
            assert not item.refused, item.refused
            if item.act == "drop":
                result = dropping.drop(server.deleter, item, plan=plan, record=record)
            else:
                result = deleting.delete(server.deleter, item, FAST, plan=plan, record=record)
            gone[item.table] = result.deleted
    return gone


def restored(server: RestoreServer, ledger: Ledger) -> Restore:
    return server.prepared(server.work(ledger, queries=()))


def rows(server: RestoreServer, database: str, table: str) -> list[Any]:
    return server.ask(database, f"select * from {table} order by 1, 2")


def test_exactly_what_retention_deleted_since_goes_again(server: RestoreServer, ledger: Ledger) -> None:
    server.backed_up(ledger)
    gone = retain(server, Copier(ledger, run()))
    assert set(gone) == {"public.visits", "public.persons", "public.prints_old"}
    assert min(gone.values()) > 5
    restore = restored(server, ledger)
    for table in ("visits", "persons"):
        assert rows(server, restore.made, table) == rows(server, "studyspot", table)
    assert server.ask(restore.made, "select count(*) from prints") == [(20,)]
    assert {one["relation"]: (one["recorded"], one["gone"]) for one in restore.facts["replay"]} == {
        table: (count, count) for table, count in gone.items()
    }
    assert [one["same"] for one in restore.facts["replay"] if one["relation"] != "public.prints_old"] == [True, True]
    assert sum(one["stays"] for one in restore.facts["replay"]) > 0, "those to whom held rows refer"
    said = restore.facts["erased"]
    assert said.startswith(f"{sum(gone.values()):,} rows were erased again, of {sum(gone.values()):,} that were")
    assert "may be among" not in said
    # Once more, as when the task is cleared: nothing is left to be deleted, and the account is the same.
    work = server.work(ledger, queries=())
    again = job.erase(work, restore)
    assert again.facts["erased"] == said


def test_what_is_deleted_while_nobody_has_answered_yet_goes_before_the_swap(
    server: RestoreServer, ledger: Ledger
) -> None:
    server.backed_up(ledger)
    first = retain(server, Copier(ledger, run()))
    restore = restored(server, ledger)
    more = server.erase(ledger, "visits", "at", "2999-01-01", "id between 1 and 9")
    assert more == 9
    work = server.work(ledger, queries=())
    restore, _ = places.put_in_place(work, restore)
    assert server.ask("studyspot", "select count(*) from visits where id < 10") == [(0,)]
    assert rows(server, "studyspot", "visits") == rows(server, restore.before, "visits")
    total = sum(first.values()) + more
    assert restore.facts["erased"].startswith(f"{total:,} rows were erased again, of {total:,}")


def test_what_the_living_database_alone_knows_counts_too(server: RestoreServer, ledger: Ledger) -> None:
    server.backed_up(ledger)
    gone = retain(server, Nobody())
    assert ledger.rows("select from deletions") == []
    restore = restored(server, ledger)
    assert sum(one["gone"] for one in restore.facts["replay"]) == sum(gone.values())
    assert rows(server, restore.made, "persons") == rows(server, "studyspot", "persons")


@pytest.mark.soak
def test_what_came_before_the_backup_or_is_another_platforms_takes_nothing(
    server: RestoreServer, ledger: Ledger
) -> None:
    retain(server, Copier(ledger, run()))
    server.backed_up(ledger)
    server.erase(ledger, "visits", "at", "2999-01-01", "id < 100")
    with ledger.transaction() as connection:
        connection.execute("update deletions set platform = 'adaptive_learning' where plan = %s", ["b" * 64])
    restore = restored(server, ledger)
    assert sum(one["gone"] for one in restore.facts["replay"]) == 0
    assert server.ask(restore.made, "select count(*) from visits where id < 100") != [(0,)]


def test_rows_to_which_the_backup_refers_stay_and_it_is_said(server: RestoreServer, ledger: Ledger) -> None:
    server("insert into visits values (9999, 399, current_date, null)")
    server.backed_up(ledger)
    # The application removes the visit, and then the person may go.
    server("delete from visits where id = 9999")
    gone = retain(server, Copier(ledger, run()))
    restore = restored(server, ledger)
    assert server.ask(restore.made, "select count(*) from persons where id = 399") == [(1,)]
    assert server.ask(restore.made, "select count(*) from visits where id = 9999") == [(1,)], "nothing cascades"
    (people,) = [one for one in restore.facts["replay"] if one["relation"] == "public.persons"]
    assert (people["gone"], people["same"]) == (gone["public.persons"] - 1, False)
    assert "1 more may be among the erased and stay, because other rows of the backup" in restore.facts["erased"]


def test_a_rule_that_means_nothing_in_the_backup_stops_the_restore(server: RestoreServer, ledger: Ledger) -> None:
    server.backed_up(ledger)
    server("alter table visits add column gone_at date")
    server("update visits set gone_at = '2020-01-01' where id < 10")
    server.erase(ledger, "visits", "gone_at", "2021-01-01")
    with pytest.raises(RefusedError, match=r"erased by its column gone_at, which the backup does not have"):
        restored(server, ledger)


@pytest.mark.soak
def test_a_table_that_the_backup_does_not_have_has_nothing_to_erase(server: RestoreServer, ledger: Ledger) -> None:
    server.backed_up(ledger)
    server("create table later (id int primary key, at date); insert into later values (1, '2020-01-01')")
    server.erase(ledger, "later", "at", "2021-01-01")
    restore = restored(server, ledger)
    (one,) = restore.facts["replay"]
    assert (one["absent"], one["gone"]) == (True, 0)
