"""A database comes back: beside the living one, proved, swapped by rename; and there is a way back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from sandbox import processes
from sandbox.home import Home
from sandbox.servers import postgres as servers
from tests.backup_server import KEY
from tests.conftest import fresh_ledger
from tests.postgres_server import DATABASE
from tests.restore_server import RULES, RestoreServer, emptied
from upkeep.backup.dump import ARCHIVE
from upkeep.backup.restore import job, places, record
from upkeep.backup.restore.choose import RefusedError
from upkeep.backup.restore.record import Restore
from upkeep.errors import SettingsError
from upkeep.ledger import Ledger

SERVER = RestoreServer


@pytest.fixture(scope="module")
def kept(control: Home) -> Iterator[dict[str, Any]]:
    with fresh_ledger(control) as made:
        yield made


@pytest.fixture
def ledger_conninfo(kept: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """One ledger for this file, emptied for each test."""
    return emptied(kept, monkeypatch)


@pytest.fixture(params=[17, *(pytest.param(version, marks=pytest.mark.soak) for version in (15, 18))])
def server(each: Callable[..., Any], request: pytest.FixtureRequest) -> RestoreServer:
    made: RestoreServer = each(request.param, RestoreServer).fresh()
    return made


@pytest.fixture
def one(each: Callable[..., Any]) -> RestoreServer:
    server: RestoreServer = each(17, RestoreServer).fresh()
    return server


def lose(server: RestoreServer) -> None:
    """What happens after the backup: an accident, and work that goes on."""
    server("delete from bookings where id <= 4000")
    server("insert into users (email) select 'new-' || i from generate_series(1, 7) as i")


def users(server: RestoreServer, database: str) -> int:
    return int(server.ask(database, "select count(*) from users")[0][0])


def test_the_whole_way_there_and_back(server: RestoreServer, ledger: Ledger) -> None:
    server.superuser("alter database studyspot set work_mem = '9MB'; alter database studyspot connection limit 50")
    server.superuser("comment on database studyspot is 'the shop'; revoke connect on database studyspot from public")
    server.superuser("grant connect on database studyspot to app, upkeep, upkeep_owner")
    server('alter database studyspot set search_path = app, "$user", public')
    before = server.databases()
    server.backed_up(ledger)
    lose(server)
    work = server.work(ledger)
    restore = server.prepared(work)
    assert restore.state == "replayed"
    assert users(server, restore.made) == 2000
    assert server.databases()[DATABASE] == before[DATABASE], "nothing of the living one was touched"
    loss = job.weigh(work, restore)
    assert loss.more == 7
    assert {(one.table, one.then, one.now) for one in loss.changes} == {
        ("public.bookings", 5000, 1000), ("public.users", 2000, 2007),
    }  # fmt: skip

    settings = "select datname, setconfig, datconnlimit, shobj_description(d.oid, 'pg_database'), datacl::text from pg_database as d join pg_db_role_setting on setdatabase = d.oid where datname = 'studyspot'"  # noqa: E501
    looked = server.superuser(settings)
    restore, done = places.put_in_place(work, restore)
    assert (done.attempts, done.already) == (1, False)
    assert server.databases() == {DATABASE: restore.made_oid, restore.before: before[DATABASE]}
    (now,) = server.superuser(settings)
    assert (sorted(now[1]), *now[2:4]) == (sorted(looked[0][1]), 50, "the shop")
    assert sorted(now[4].strip("{}").split(",")) == sorted(looked[0][4].strip("{}").split(","))
    assert (users(server, DATABASE), users(server, restore.before)) == (2000, 2007)
    assert job.weigh(work, restore, restore.before).sentence.startswith("7 rows newer than the backup")
    assert places.put_in_place(work, restore)[1].already

    restore, done = places.put_back(work, restore)
    assert server.databases() == {DATABASE: before[DATABASE], restore.made: restore.made_oid}
    assert server.superuser(settings) == looked
    assert users(server, DATABASE) == 2007
    places.drop_old(work, restore)
    assert server.databases() == before
    assert {row["state"] for row in ledger.rows("select state from actions")} == {"done"}


@pytest.mark.soak
def test_what_only_a_superuser_may_restore_is_left_out_and_named(one: RestoreServer, ledger: Ledger) -> None:
    one.superuser("create publication everything for all tables")
    one.backed_up(ledger, key=KEY)
    with pytest.raises(RefusedError, match=r"cannot be read: it was encrypted with key \w+, and there is no key"):
        one.prepared(one.work(ledger))
    restore = one.prepared(one.work(ledger, key=KEY))
    assert restore.facts["extensions"] == ["amcheck", "pageinspect", "pg_stat_statements", "pgstattuple"]
    assert restore.facts["left_out"].startswith(
        "extensions amcheck, pageinspect, pg_stat_statements, pgstattuple, function upkeep.sample_index_pages("
    )
    assert "publication - everything" in restore.facts["left_out"]
    assert one.ask(restore.made, "select extname from pg_extension order by 1") == [("plpgsql",)]


def test_what_the_application_needs_and_a_superuser_owns_is_refused(one: RestoreServer, ledger: Ledger) -> None:
    one.superuser("create role reports; create table sums (n int); alter table sums owner to reports")
    one.superuser("create table odd (n int)")
    one.backed_up(ledger)
    work = one.work(ledger)
    with pytest.raises(RefusedError, match=r"TABLE public odd of postgres, TABLE public sums of reports") as refused:
        job.room(work, one.begin(work), swaps=True)
    assert "grant reports to upkeep_owner;" in refused.value.hint
    assert "grant postgres" not in refused.value.hint
    one.superuser("drop table sums; drop role reports")


@pytest.mark.soak
def test_an_extension_of_the_application_needs_a_template_that_has_it(one: RestoreServer, ledger: Ledger) -> None:
    one.superuser("create extension file_fdw; create extension hstore")
    one.backed_up(ledger)
    work = one.work(ledger)
    restore = one.begin(work)
    with pytest.raises(RefusedError, match=r"cannot restore extension file_fdw(.|\n)*restore\.template"):
        job.room(work, restore, swaps=True)
    assert set(one.databases()) == {DATABASE}
    with servers.superuser(one.home, one.name) as connection:
        connection.execute("create database restorable template template0 is_template true")
    with servers.superuser(one.home, one.name, "restorable") as connection:
        connection.execute("create extension file_fdw")
    try:
        again = one.work(ledger, 2, rules=RULES.model_copy(update={"template": "restorable"}))
        restore = one.prepared(again)
        names = [name for (name,) in one.ask(restore.made, "select extname from pg_extension order by 1")]
        assert names == ["file_fdw", "hstore", "plpgsql"], "hstore is trusted: its owner may create it"
    finally:
        with servers.superuser(one.home, one.name) as connection:
            connection.execute("alter database restorable is_template false")


@pytest.mark.parametrize(
    ("taken", "given", "said"),
    [
        ("alter role upkeep_owner nocreatedb", "alter role upkeep_owner createdb;", "may not create databases"),
        ("revoke pg_signal_backend from upkeep_owner", "grant pg_signal_backend to upkeep_owner;", "may not end"),
        ("revoke app_owner from upkeep_owner", "grant app_owner to upkeep_owner;", "may not act as app_owner"),
    ],
)
def test_a_missing_right_is_refused_with_its_grant(
    one: RestoreServer, ledger: Ledger, taken: str, given: str, said: str
) -> None:
    one.backed_up(ledger)
    work = one.work(ledger)
    restore = one.begin(work)
    one.superuser(taken)
    try:
        with pytest.raises(RefusedError, match=said) as refused:
            job.room(work, restore, swaps=True)
        assert given in refused.value.hint
    finally:
        one.superuser(given)
    job.room(work, restore, swaps=True)


def test_disk_that_is_short_or_unknown_is_a_no(one: RestoreServer, ledger: Ledger) -> None:
    one.backed_up(ledger)

    def nobody() -> float:
        raise SettingsError("Prometheus: away", hint="start it.")

    for free, said in ((lambda: 1000.0, r"are needed and 0\.00 are free"), (nobody, "is not known: Prometheus: away")):
        work = one.work(ledger, free=free)
        with pytest.raises(RefusedError, match=said):
            job.room(work, one.begin(work), swaps=True)


def test_a_backup_that_was_changed_makes_no_database(one: RestoreServer, ledger: Ledger) -> None:
    backup = one.backed_up(ledger)
    (archive,) = backup.role(ARCHIVE)
    content = bytearray(one.archive(backup))
    content[-2000] ^= 1
    one.store.put(archive.key, bytes(content))
    work = one.work(ledger)
    with pytest.raises(RefusedError, match=r"is not what was written: \S+ was changed or replaced"):
        job.bring(work, one.begin(work))
    assert set(one.databases()) == {DATABASE}


def test_content_that_is_not_the_snapshots_is_never_swapped_in(one: RestoreServer, ledger: Ledger) -> None:
    backup = one.backed_up(ledger)
    one("update users set email = 'changed' where id = 7")
    forged = one.forge(backup, one.pg_dump())
    work = one.work(ledger)
    restore = job.bring(work, one.begin(work, backup=forged.id))
    with pytest.raises(
        RefusedError, match=r"public\.users has all 2,000 rows, and their content is not the snapshot's"
    ):
        job.prove(work, restore)
    with pytest.raises(RefusedError, match="is loaded, and this needs replayed"):
        places.put_in_place(work, record.find(ledger, "studyspot", restore.id))


def test_a_database_of_that_name_that_is_not_ours_is_left_alone(one: RestoreServer, ledger: Ledger) -> None:
    one.backed_up(ledger)
    work = one.work(ledger)
    restore = one.begin(work)
    with servers.superuser(one.home, one.name) as connection:
        connection.execute(f"create database {restore.made} owner app_owner")  # type: ignore[arg-type]
    there = one.databases()
    with pytest.raises(RefusedError, match="this restore did not make it"):
        job.bring(work, restore)
    with pytest.raises(RefusedError, match="was not made by restore"):
        places.remove(work, restore)
    assert one.databases() == there


@pytest.mark.soak
def test_two_restores_of_one_database_do_not_mix(one: RestoreServer, ledger: Ledger, ledger_conninfo: str) -> None:
    one.backed_up(ledger)
    first, second = one.work(ledger, 1), one.work(ledger, 2)
    mine, theirs = one.prepared(first), one.prepared(second)
    places.put_in_place(second, theirs)
    with pytest.raises(RefusedError, match=r"studyspot is not the one it was .*called studyspot_before_"):
        places.put_in_place(first, mine)
    with ledger.exclusive("restore/studyspot/swap") as alone, Ledger(ledger_conninfo) as other:
        assert alone
        with pytest.raises(RefusedError, match=r"another restore of studyspot is at work on it \(swap\)"):
            places.put_in_place(one.work(other, 2), theirs)
        # What was refused is cleared away all the same.
        places.remove(one.work(other), mine)


def test_without_a_living_database_the_restored_one_takes_the_name(one: RestoreServer, ledger: Ledger) -> None:
    one.backed_up(ledger)
    with servers.superuser(one.home, one.name) as connection:
        connection.execute("drop database studyspot with (force)")
    work = one.work(ledger)
    restore = one.prepared(work)
    assert "could not be counted" in job.weigh(work, restore).sentence
    restore, _ = places.put_in_place(work, restore)
    assert set(one.databases()) == {DATABASE}
    assert one.ask(DATABASE, "select count(*) from users", role="app") == [(2000,)]
    with pytest.raises(RefusedError, match="replaced nothing"):
        places.put_back(work, restore)


# -- somebody is there --------------------------------------------------------------------------------------------


@pytest.fixture
def ready(one: RestoreServer, ledger: Ledger) -> tuple[RestoreServer, Any, Restore]:
    one.backed_up(ledger)
    work = one.work(ledger)
    return one, work, one.prepared(work)


def test_writes_during_the_swap_are_in_one_of_the_two(ready: tuple[RestoreServer, Any, Restore]) -> None:
    server, work, restore = ready
    confirmed: list[str] = []
    refused = threading.Event()
    over = threading.Event()

    def write(name: str) -> None:
        number = 0
        while not over.is_set():
            try:
                with psycopg.connect(server.owner, autocommit=True) as connection:
                    while not over.is_set():
                        email = f"{name}-{number}"
                        connection.execute("insert into users (email) values (%s)", [email])
                        confirmed.append(email)
                        number += 1
            except psycopg.Error:
                number += 1
                refused.set()

    writers = [threading.Thread(target=write, args=(f"w{n}",)) for n in range(3)]
    for writer in writers:
        writer.start()
    processes.wait_until(lambda: len(confirmed) > 50, 10, "writes")
    restore, done = places.put_in_place(work, restore)
    after = len(confirmed)
    processes.wait_until(lambda: len(confirmed) > after + 50, 20, "writes after the swap")
    over.set()
    for writer in writers:
        writer.join()
    found = "select email from users where email like 'w%'"
    old, new = ({email for (email,) in server.ask(name, found)} for name in (restore.before, DATABASE))
    assert set(confirmed) <= old | new
    assert not old & new
    assert old, "what was written before is in the old one"
    assert new, "what was written after is in the new one"
    assert refused.is_set()
    assert done.idle + done.ended >= 1
    assert job.weigh(work, restore, restore.before).more == len(old)


def test_an_open_transaction_is_waited_for_then_ended(ready: tuple[RestoreServer, Any, Restore]) -> None:
    server, work, restore = ready
    with psycopg.connect(server.owner) as busy:
        busy.execute("update users set email = 'held' where id = 1")
        restore, done = places.put_in_place(work, restore)
        assert done.ended == 1
        with pytest.raises(psycopg.OperationalError):
            busy.execute("select 1")
    assert server.ask(restore.before, "select email from users where id = 1") == [("user-1@example.com",)]


def test_who_cannot_be_ended_stops_the_swap_and_nobody_is_sent_away(ready: tuple[RestoreServer, Any, Restore]) -> None:
    server, work, restore = ready
    names = server.databases()
    with psycopg.connect(server.owner, autocommit=True) as idle:
        only = r"is used by postgres sandbox \(pid \d+\), which only an admin"
        with servers.superuser(server.home, server.name, DATABASE), pytest.raises(RefusedError, match=only):
            places.put_in_place(work, restore)
        with server.session("begin", "insert into nothing values (1)", "prepare transaction 'left'"):
            pass
        with pytest.raises(RefusedError, match="prepared transaction 'left' of app_owner"):
            places.put_in_place(work, restore)
        assert idle.execute("select 1").fetchone() == (1,)
        assert server.databases() == names
        server("rollback prepared 'left'")
    restore, _ = places.put_in_place(work, restore)
    assert restore.state == "swapped"


@pytest.mark.soak
def test_a_lock_that_lasts_is_given_up_and_everything_is_as_it_was(ready: tuple[RestoreServer, Any, Restore]) -> None:
    server, _, restore = ready
    work = server.work(ready[1].ledger, rules=RULES.model_copy(update={"within": RULES.within / 10}))
    names = server.databases()
    with servers.superuser(server.home, server.name) as connection, connection.transaction():
        # As a second administrator in the middle of the same.
        connection.execute("alter database studyspot connection limit 77")
        began = time.monotonic()
        with pytest.raises(RefusedError, match="could not be swapped in time"):
            places.put_in_place(work, restore)
        assert time.monotonic() - began < 30
    assert server.databases() == names


def test_a_setting_that_takes_more_rights_is_named_before_the_swap(ready: tuple[RestoreServer, Any, Restore]) -> None:
    server, work, restore = ready
    names = server.databases()
    server.superuser("alter role app in database studyspot set statement_timeout = '5s'")
    with pytest.raises(RefusedError, match="1 statements need more rights") as refused:
        places.put_in_place(work, restore)
    assert server.databases() == names
    statement = refused.value.hint.splitlines()[-1]
    assert statement == f'alter role "app" in database "{restore.made}" set "statement_timeout" to \'5s\';'
    server.superuser(statement)
    restore, _ = places.put_in_place(work, restore)
    assert server.ask(DATABASE, "show statement_timeout", role="app") == [("5s",)]
