"""PostgreSQL: every check sees its fault in a real server, with the numbers, and sees it gone."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from sandbox import __main__ as sandbox
from sandbox import processes
from sandbox.faults import break_it, heal_it
from sandbox.home import Home
from sandbox.servers import postgres as servers
from upkeep.findings import Finding, Outcome, Severity
from upkeep.health import postgres, postgres_server, postgres_sessions
from upkeep.health.postgres_sessions import shape, tree
from upkeep.platforms.base import Threshold
from upkeep.platforms.services import Postgres, Table
from upkeep.settings import ROOT

STUDYSPOT = Postgres(standbys=1, tables=(Table(name="users"), Table(name="public.bookings")))
PRIMARY = "postgres.studyspot"


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    home = Home(Path(tempfile.mkdtemp(prefix="uph-", dir="/tmp")))
    try:
        sandbox.up(home, only=[PRIMARY, "postgres.studyspot_standby"], scale=0.02)
        yield home
    finally:
        sandbox.down(home)
        shutil.rmtree(home.path, ignore_errors=True)


def bare(home: Home, version: int) -> str:
    """An empty cluster with Upkeep's roles, which may be stopped and broken without harm to others."""
    name = f"postgres.bare{version}"
    made = home.facts(name).get("data")
    servers.start_cluster(home, name, version, settings={"max_connections": 20, "archive_mode": True})
    if not made:
        with servers.superuser(home, name) as connection:
            connection.execute("alter system set archive_command = '/bin/true'")
            connection.execute("select pg_reload_conf()")
        servers.prepare_platform(home, name, "bare")
    return servers.dsn(home, name, "upkeep", "bare")


def look(conninfo: str, section: Postgres = STUDYSPOT, **options: Any) -> dict[str, Outcome]:
    seen = {outcome.check: outcome for outcome in postgres.look(section, conninfo, **options)}
    for outcome in seen.values():
        json.dumps(dict(outcome.facts))
        json.dumps([dict(finding.facts) for finding in outcome.findings])
    return seen


def look_at(home: Home, section: Postgres = STUDYSPOT) -> dict[str, Outcome]:
    return look(servers.dsn(home, PRIMARY, "upkeep", "studyspot"), section)


def only(outcome: Outcome) -> Finding:
    assert len(outcome.findings) == 1, outcome
    return outcome.findings[0]


def assert_well(seen: dict[str, Outcome]) -> None:
    for check, outcome in seen.items():
        assert outcome.state == "ok", (check, outcome)


def assert_explained(seen: dict[str, Outcome], by: str, but: tuple[str, ...] = ()) -> None:
    for check, outcome in seen.items():
        if check != by and check not in but:
            assert (outcome.state, outcome.explained_by, outcome.worst) == ("unknown", by, None), outcome


@contextmanager
def broken(home: Home, fault: str) -> Iterator[None]:
    break_it(home, fault)
    try:
        yield
    finally:
        heal_it(home, fault)


def app(home: Home, name: str = "studyspot-api") -> psycopg.Connection[Any]:
    """A session of the application."""
    return psycopg.connect(servers.dsn(home, PRIMARY, "app_owner", "studyspot"), application_name=name)


# -- a healthy server ----------------------------------------------------------------------------------


def test_a_healthy_server_is_ok_with_its_numbers(home: Home) -> None:
    seen = look_at(home)
    assert_well(seen)
    assert len(seen) == 13
    assert seen["postgres_connect"].facts["version_text"].startswith("17.")
    assert seen["postgres_replication"].facts["standbys"] == 1
    assert seen["postgres_connections"].facts["most"] == 57
    assert all(outcome.seconds > 0 for outcome in seen.values())


@pytest.mark.parametrize("version", [15, 18])
def test_older_and_newer_versions_are_looked_at_as_well(home: Home, version: int) -> None:
    seen = look(bare(home, version), Postgres())
    assert_well(seen)
    assert seen["postgres_version"].facts["version"] // 10000 == version


def test_a_version_that_gets_no_fixes_is_told() -> None:
    """No server that old is to be had, so only the judgement is looked at."""
    finding = only(postgres_server.version(STUDYSPOT, {"version": 120022, "version_text": "12.22"}))
    assert (finding.severity, finding.summary[:33]) == (Severity.P3, "PostgreSQL 12.22 is older than 13")


def test_the_write_probe_leaves_nothing_behind_but_other_peoples_rows(home: Home) -> None:
    with servers.superuser(home, PRIMARY, "studyspot") as connection:
        connection.execute(
            "insert into upkeep.canary values (1, now() - interval '2 hours', 'heartbeat'),"
            " (-7, now() - interval '2 hours', 'killed'), (-8, now(), 'at work')"
        )
        assert look_at(home)["postgres_write"].state == "ok"
        rows = connection.execute("delete from upkeep.canary returning run").fetchall()
    assert sorted(rows) == [("at work",), ("heartbeat",)]


@pytest.mark.parametrize(
    "file", sorted((ROOT / "include" / "sql" / "health").glob("*.sql")), ids=lambda file: file.stem
)
def test_every_query_says_what_it_does_and_needs_no_more_than_its_header_claims(home: Home, file: Path) -> None:
    text = file.read_text()
    assert text.startswith("-- ")
    for part in ("Returns", "Params", "Locks", "Needs"):
        assert f"-- {part}   " in text
    values = {"names": ["users"], "run": "test", "id": -9, "seconds": 0}
    wanted = set(re.findall(r"%\((\w+)\)s", text))
    assert all(f"{name} " in text.partition("-- Params")[2].partition("-- Locks")[0] for name in wanted)
    with psycopg.connect(servers.dsn(home, PRIMARY, "upkeep", "studyspot")) as connection:
        if not file.stem.startswith("canary"):
            connection.execute("set transaction read only")
        connection.execute(text, {name: values[name] for name in wanted})
        connection.rollback()


# -- no connection -------------------------------------------------------------------------------------


def test_a_stopped_server_is_one_finding_and_the_rest_is_explained_by_it(home: Home) -> None:
    conninfo = bare(home, 18)
    processes.stop(home, "postgres.bare18")
    seen = look(conninfo, Postgres())
    assert "refused" in only(seen["postgres_connect"]).summary
    assert only(seen["postgres_connect"]).severity == Severity.P0
    assert_explained(seen, "postgres_connect")
    assert list(seen) == list(look(bare(home, 18), Postgres()))
    assert_well(look(bare(home, 18), Postgres()))


def test_a_server_that_is_back_at_the_second_try_pages_nobody(home: Home) -> None:
    conninfo = bare(home, 18)
    processes.stop(home, "postgres.bare18")
    again = threading.Thread(target=bare, args=(home, 18))
    again.start()
    seen = look(conninfo, Postgres(), timeout_s=3)
    again.join()
    assert_well(seen)


def test_a_wrong_password_is_found_at_once_and_names_the_connection(home: Home) -> None:
    with broken(home, "studyspot_postgres_wrong_password"):
        began = time.monotonic()
        seen = look(servers.dsn(home, PRIMARY, "upkeep", "studyspot"), conn_id="studyspot_postgres")
        assert time.monotonic() - began < 1, "a second try could lock the account"
        finding = only(seen["postgres_connect"])
        assert 'password authentication failed for user "upkeep"' in finding.summary
        assert "`studyspot_postgres`" in finding.hint
        assert finding.severity == Severity.P0
        assert_explained(seen, "postgres_connect")
    assert_well(look_at(home))


def test_a_database_that_is_not_there_is_found(home: Home) -> None:
    seen = look(servers.dsn(home, PRIMARY, "upkeep", "studyspott"))
    assert 'database "studyspott" does not exist' in only(seen["postgres_connect"]).summary


def test_a_server_that_accepts_and_never_answers_is_bounded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began = time.monotonic()
        seen = look(f"host=127.0.0.1 port={mute.getsockname()[1]} user=upkeep", timeout_s=2)
        assert time.monotonic() - began < 5
    finding = only(seen["postgres_connect"])
    assert "timeout" in finding.summary
    assert "does not answer" in finding.hint
    assert_explained(seen, "postgres_connect")


@contextmanager
def between(home: Home, at: bytes, then: Callable[[socket.socket], None]) -> Iterator[str]:
    """A network between us and the server: ``then`` happens to our side once we have sent ``at``."""
    known = conninfo_to_dict(servers.dsn(home, PRIMARY, "upkeep", "studyspot"))
    listener = socket.create_server(("127.0.0.1", 0))

    def carry(source: socket.socket, target: socket.socket, ours: bool) -> None:
        # Either end may be gone already.
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if ours and at in data:
                    then(source)
                    return
                target.sendall(data)

    def serve() -> None:
        near, _ = listener.accept()
        far = socket.create_connection((str(known["host"]), int(str(known["port"]))))
        threading.Thread(target=carry, args=(far, near, False), daemon=True).start()
        carry(near, far, True)

    threading.Thread(target=serve, daemon=True).start()
    yield make_conninfo(**{**known, "port": listener.getsockname()[1]})
    listener.close()


def test_a_server_that_falls_silent_while_it_is_looked_at_is_one_finding(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "MOST_SECONDS", 2.5)
    with between(home, b"pg_stat_replication", lambda ours: time.sleep(20)) as conninfo:
        began = time.monotonic()
        seen = look(conninfo)
        assert time.monotonic() - began < 4
    assert "stopped answering" in only(seen["postgres_connect"]).summary
    assert seen["postgres_connections"].state == "ok", "what was seen before stays seen"
    for check in ("postgres_replication", "postgres_slots", "postgres_tables"):
        assert seen[check].explained_by == "postgres_connect"


def test_a_connection_that_breaks_while_it_is_looked_at_is_one_finding(home: Home) -> None:
    with between(home, b"upkeep.canary", lambda ours: ours.close()) as conninfo:
        seen = look(conninfo)
    assert "closed the connection" in only(seen["postgres_connect"]).summary
    assert seen["postgres_write"].explained_by == "postgres_connect"
    assert_well(look_at(home))


# -- the server as a whole -----------------------------------------------------------------------------


def test_a_standby_behind_the_primarys_name_is_found(home: Home) -> None:
    port = home.facts("postgres.studyspot_standby")["port"]
    seen = look(make_conninfo(servers.dsn(home, PRIMARY, "upkeep", "studyspot"), port=port))
    assert only(seen["postgres_primary"]).severity == Severity.P0
    assert "standby" in only(seen["postgres_primary"]).summary
    for check in ("postgres_write", "postgres_replication", "postgres_slots", "postgres_archiver"):
        assert seen[check].explained_by == "postgres_primary"
    assert seen["postgres_connections"].state == "ok"


def test_a_database_that_went_read_only_is_found(home: Home) -> None:
    with broken(home, "studyspot_read_only"):
        seen = look_at(home)
        finding = only(seen["postgres_write"])
        assert "read-only transaction" in finding.summary
        assert finding.severity == Severity.P0
        assert seen["postgres_primary"].state == "ok"
    assert_well(look_at(home))


def test_a_commit_that_no_synchronous_standby_confirms_is_found_and_cleaned_up(home: Home) -> None:
    conninfo = bare(home, 18)
    with servers.superuser(home, "postgres.bare18") as connection:
        connection.execute("alter system set synchronous_standby_names = 'nobody'")
        connection.execute("select pg_reload_conf()")
        time.sleep(0.2)
        try:
            began = time.monotonic()
            finding = only(look(conninfo, Postgres(), timeout_s=1)["postgres_write"])
            assert time.monotonic() - began < 3
        finally:
            connection.execute("alter system reset synchronous_standby_names")
            connection.execute("select pg_reload_conf()")
            time.sleep(0.2)
    assert "takes no writes: no synchronous standby confirmed a commit within 1 s" in finding.summary
    with psycopg.connect(conninfo) as asking:
        assert asking.execute("select count(*) from upkeep.canary").fetchone() == (0,)
    assert_well(look(conninfo, Postgres()))


def test_a_database_that_was_never_prepared_is_unknown_and_says_how(home: Home) -> None:
    with servers.superuser(home, PRIMARY, "studyspot") as connection:
        connection.execute("alter table upkeep.canary rename to kept")
        try:
            seen = look_at(home)["postgres_write"]
        finally:
            connection.execute("alter table upkeep.kept rename to canary")
        assert (seen.state, seen.severity) == ("unknown", Severity.P0)
        assert 'relation "upkeep.canary" does not exist' in seen.reason
        assert "include/sql/postgres/roles.sql" in seen.reason
        connection.execute("revoke insert on upkeep.canary from upkeep")
        try:
            assert "permission denied" in look_at(home)["postgres_write"].reason
        finally:
            connection.execute("grant insert on upkeep.canary to upkeep")
    assert_well(look_at(home))


def test_a_missing_standby_is_found(home: Home) -> None:
    with broken(home, "studyspot_standby_down"):
        finding = only(look_at(home)["postgres_replication"])
        assert finding.summary == "0 of 1 standbys stream"
        assert finding.severity == Severity.P1
    assert_well(look_at(home))


def test_a_standby_that_falls_behind_is_found_with_seconds_and_bytes(home: Home) -> None:
    section = STUDYSPOT.model_copy(
        update={"replication_lag": Threshold(warn=0.5, critical=60, warn_severity=Severity.P2)}
    )
    with broken(home, "studyspot_standby_paused"):
        time.sleep(1.5)
        finding = only(look_at(home, section)["postgres_replication"])
        assert re.match(r"standby postgres.studyspot_standby is [\d.]+ s and [\d.]+ KiB behind", finding.summary)
        assert finding.object == "postgres.studyspot_standby"
        assert finding.severity == Severity.P2
        assert finding.facts["lag_s"] > 0.5
        assert finding.facts["lag_bytes"] > 8192
    assert_well(look_at(home))


def test_a_frozen_standby_is_behind_although_its_last_report_was_fine(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connected, silent, and its last word was that all is replayed. Both clocks ten times faster than usual."""
    monkeypatch.setattr(postgres_server, "SILENT_S", 3.0)
    section = STUDYSPOT.model_copy(update={"replication_lag": Threshold(warn=1, critical=60)})
    port = home.facts("postgres.studyspot_standby")["port"]
    with psycopg.connect(home.facts(PRIMARY)["superuser_dsn"], port=port, autocommit=True) as standby:
        standby.execute("alter system set wal_receiver_status_interval = '1s'")
        standby.execute("select pg_reload_conf()")
        question = "select pid from pg_stat_activity where backend_type = 'walreceiver'"
        (receiver,) = standby.execute(question).fetchone() or (0,)
        time.sleep(1.2)
        assert look_at(home, section)["postgres_replication"].state == "ok"
        os.kill(receiver, signal.SIGSTOP)
        try:
            time.sleep(3.2)
            finding = only(look_at(home, section)["postgres_replication"])
            assert re.match(r"standby postgres.studyspot_standby is [\d.]+ s and ", finding.summary)
        finally:
            os.kill(receiver, signal.SIGCONT)
        standby.execute("alter system reset wal_receiver_status_interval")
        standby.execute("select pg_reload_conf()")
    assert_well(look_at(home))


def test_a_slot_that_nobody_reads_is_found_with_what_it_holds_back(home: Home) -> None:
    section = STUDYSPOT.model_copy(update={"slot_retained": 16 * 1024 * 1024})
    with broken(home, "studyspot_inactive_slot"):
        finding = only(look_at(home, section)["postgres_slots"])
        assert re.match(
            r"slot sandbox_abandoned is read by nobody and holds back [3-9]\d\.\d MiB of WAL", finding.summary
        )
        assert finding.severity == Severity.P1
        assert look_at(home)["postgres_slots"].state == "ok", "less than the limit is nobody's business"
    assert_well(look_at(home, section))


def test_failing_wal_archiving_is_found_and_heals(home: Home) -> None:
    conninfo = bare(home, 18)

    def archive(command: str, done: str) -> None:
        with servers.superuser(home, "postgres.bare18") as connection:
            connection.execute(f"alter system set archive_command = '{command}'")
            connection.execute("select pg_reload_conf()")
            connection.execute("select pg_logical_emit_message(true, 'test', 'x')")
            connection.execute("select pg_switch_wal()")
            processes.wait_until(
                lambda: connection.execute(f"select {done} from pg_stat_archiver").fetchone() == (True,), 15, done
            )

    archive("/bin/false", "failed_count > 0 and last_failed_time > coalesce(last_archived_time, '-infinity')")
    finding = only(look(conninfo, Postgres())["postgres_archiver"])
    assert re.match(r"archiving 0000\w+ fails \(\d+ failures\); nothing was archived for ", finding.summary)
    assert finding.severity == Severity.P1
    archive("/bin/true", "last_archived_time > last_failed_time")
    assert_well(look(conninfo, Postgres()))


def test_transaction_ids_that_run_out_are_found(home: Home) -> None:
    """The counter of a stopped server is set forward, as a busy year would."""
    name, used = "postgres.worn", 1_200_000_000
    servers.start_cluster(home, name, 17)
    servers.prepare_platform(home, name, "worn")
    processes.stop(home, name)
    data, user = Path(home.facts(name)["data"]), servers.unprivileged(home)
    user.run([Path(home.facts(name)["bin"]) / "pg_resetwal", "-x", str(used), "-D", data])
    # The commit log of the ids in between: 2 bits each, all aborted.
    segment = data / "pg_xact" / f"{used // (8192 * 4 * 32):04X}"
    segment.write_bytes(bytes(8192 * 32))
    segment.chmod(0o600)
    user.give(segment)
    servers.start_cluster(home, name, 17)
    try:
        seen = look(servers.dsn(home, name, "upkeep", "worn"), Postgres())
    finally:
        processes.stop(home, name, sig=signal.SIGQUIT)
    worn = {finding.object: finding for finding in seen["postgres_wraparound"].findings}
    assert set(worn) == {"postgres", "template0", "template1", "worn"}
    assert worn["worn"].summary.startswith("worn has used 55.9% of its transaction ids (1,19")
    assert worn["worn"].severity == Severity.P1
    assert seen["postgres_write"].state == "ok"


def test_a_table_that_the_platform_file_names_but_is_not_there_is_found(home: Home) -> None:
    section = STUDYSPOT.model_copy(
        update={"tables": (Table(name="users"), Table(name="public.Bookings"), Table(name="nowhere.seats"))}
    )
    seen = look_at(home, section)["postgres_tables"]
    assert [finding.object for finding in seen.findings] == ["nowhere.seats", "public.Bookings"]
    assert "although the platform file names it" in seen.findings[0].summary


# -- sessions ------------------------------------------------------------------------------------------


def test_connections_in_use_are_found_by_state_and_application(home: Home) -> None:
    with broken(home, "studyspot_connections_full"):
        finding = only(look_at(home)["postgres_connections"])
        assert finding.severity == Severity.P1
        assert re.match(r"5[2-4] of 57 connections in use \(9[1-5]%\): .* idle, 1 active; most by ", finding.summary)
        section = STUDYSPOT.model_copy(update={"connections": Threshold(warn=0.8, critical=0.99)})
        assert only(look_at(home, section)["postgres_connections"]).severity == Severity.P3
    assert_well(look_at(home))


def test_a_server_without_a_free_connection_is_found_by_that_name(home: Home) -> None:
    conninfo = bare(home, 18)
    with ExitStack() as stack:
        superuser = home.facts("postgres.bare18")["superuser_dsn"]
        with contextlib.suppress(psycopg.OperationalError):
            for _ in range(30):
                stack.enter_context(psycopg.connect(superuser))
        seen = look(conninfo, Postgres())
        finding = only(seen["postgres_connect"])
        assert re.search("too many clients|remaining connection slots", finding.summary)
        assert finding.hint.startswith("all its connections are taken")
        assert_explained(seen, "postgres_connect")
    assert_well(look(conninfo, Postgres()))


def waits(home: Home, pid: int) -> bool:
    """For a lock, or in pg_sleep."""
    asked = "select 1 from pg_stat_activity where pid = %s and wait_event_type in ('Lock', 'Timeout')"
    with servers.superuser(home, PRIMARY, "studyspot") as connection:
        return connection.execute(asked, [pid]).fetchone() is not None


@contextmanager
def at_work(home: Home, *sessions: tuple[psycopg.Connection[Any], str]) -> Iterator[None]:
    """Each session executes its statement until the block ends, however it ends; each waits before the next begins."""

    def execute(connection: psycopg.Connection[Any], statement: str) -> None:
        with contextlib.suppress(psycopg.Error):
            connection.execute(statement)

    threads = [threading.Thread(target=execute, args=session, daemon=True) for session in sessions]
    try:
        for thread, (connection, _) in zip(threads, sessions, strict=True):
            thread.start()
            processes.wait_until(partial(waits, home, connection.info.backend_pid), 10, "a session to wait")
        yield
    finally:
        for connection, _ in sessions:
            connection.cancel_safe()
        for thread in threads:
            thread.join()
        for connection, _ in sessions:
            connection.rollback()


def test_a_long_statement_is_found_without_its_values(home: Home) -> None:
    section = STUDYSPOT.model_copy(update={"long_query": timedelta(seconds=1)})
    statement = "select pg_sleep(300), 'hunter2' /* for user 4711 */, 4242"
    with app(home) as connection, at_work(home, (connection, statement)):
        time.sleep(1.2)
        finding = only(look_at(home, section)["postgres_long_queries"])
        pid = connection.info.backend_pid
        assert re.match(
            rf"1 statement of studyspot-api longer than 1.0 s; the longest has run [\d.]+ s \(pid {pid}\)$",
            finding.summary,
        )
        assert (finding.object, finding.severity) == ("studyspot-api", Severity.P2)
        assert finding.facts["sessions"][0]["query"] == "select pg_sleep(?), ? , ?"
        assert look_at(home)["postgres_long_queries"].state == "ok", "shorter than five minutes is fine"
    assert_well(look_at(home, section))


def test_a_forgotten_transaction_is_found_and_is_worse_when_somebody_waits(home: Home) -> None:
    section = STUDYSPOT.model_copy(update={"idle_in_transaction": timedelta(milliseconds=200)})
    with broken(home, "studyspot_idle_in_transaction"):
        time.sleep(0.3)
        finding = only(look_at(home, section)["postgres_idle_in_transaction"])
        assert re.match(r"1 session of .+ idle in a transaction for more than 0.2 s; the longest ", finding.summary)
        assert finding.severity == Severity.P2
        assert look_at(home)["postgres_idle_in_transaction"].state == "ok", "shorter than five minutes is fine"
    with broken(home, "studyspot_blocked_query"):
        time.sleep(0.3)
        finding = only(look_at(home, section)["postgres_idle_in_transaction"])
        assert finding.summary.endswith("; waiting for it: 1 session")
        assert finding.severity == Severity.P1
    assert_well(look_at(home, section))


def test_the_root_of_a_tree_of_waiting_sessions_is_found(home: Home) -> None:
    """The importer holds a row of users; two wait for it; one of them holds a row of libraries that a third wants."""
    first_user = "update users set last_login = now() where id = (select min(id::text)::uuid from users)"
    first_library = "update libraries set name = name where id = (select min(id::text)::uuid from libraries)"
    with app(home, "importer") as root, app(home) as second, app(home) as third, app(home) as fourth:
        root.execute(first_user)
        second.execute(first_library)
        pid = root.info.backend_pid
        with at_work(home, (second, first_user), (third, first_user), (fourth, first_library)):
            time.sleep(2.5)
            seen = look_at(home)["postgres_blocked"]
        root.rollback()
    finding = only(seen)
    assert re.match(
        rf"importer \(pid {pid}, idle in transaction for [\d.]+ s\) makes 3 sessions wait for its locks, 2 deep, "
        r"the longest [\d.]+ s$",
        finding.summary,
    )
    assert (finding.object, finding.severity) == ("importer", Severity.P2)
    assert finding.facts["roots"][0]["pid"] == pid
    assert seen.facts["waiting"] == 3
    assert_well(look_at(home))


def test_waiting_for_a_moment_is_everyday_life(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_sessions, "BLOCKED_S", 30.0)
    with broken(home, "studyspot_blocked_query"):
        seen = look_at(home)["postgres_blocked"]
    assert (seen.state, seen.facts["waiting"]) == ("ok", 1)


def test_a_long_queue_at_one_lock_is_a_tree_that_is_walked_at_once() -> None:
    """Each waiter waits for all before it: 2^500 paths, 500 sessions."""
    queue = {pid: set(range(pid + 1, 501)) for pid in range(500)}
    began = time.monotonic()
    below, depth = tree(0, queue)
    assert time.monotonic() - began < 1
    assert (len(below), depth) == (500, 1)
    assert tree(1, {1: {2}, 2: {3}, 3: {1}}) == ({2, 3}, 2), "a circle is walked once"


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        (
            "select * from users where email = 'o''hara@example.com' and id = 42",
            "select * from users where email = ? and id = ?",
        ),
        ("update t1 set a = E'x' -- for bob\nwhere b = $1", "update t1 set a = ? where b = $?"),
        ("do $body$ begin perform 'secret'; end $body$", "do ?"),
        ("insert into x values ('cut off in the midd", "insert into x values (?"),
        ("/* trace 0af7 */ select 1e5", "select ?"),
    ],
)
def test_a_statements_values_are_not_shown(query: str, shown: str) -> None:
    assert shape(query) == shown
