"""The brake, on a real primary with a real standby: each reason to wait is made, seen, healed and gone."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from sandbox import __main__ as sandbox
from sandbox import processes
from sandbox.home import Home
from sandbox.servers import postgres as servers
from tests.postgres_server import DATABASE, PostgresServer
from upkeep.connections import hold_flag, postgres_conninfo
from upkeep.errors import CredentialsError
from upkeep.platforms.conduct import Brake
from upkeep.postgres.brake import hold
from upkeep.postgres.session import connect, exclusive

STANDBY = "postgres.strained_standby"
WRITE_MIB = "select pg_logical_emit_message(true, 'test', repeat('x', 1048576)) from generate_series(1, {})"
MONTHS = timedelta(days=90)


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with sandbox.temporary() as home:
        yield home


@pytest.fixture(scope="module")
def server(home: Home) -> PostgresServer:
    server = PostgresServer(
        home, 17, name="postgres.strained", max_connections=20, archive_mode=True, archive_command="true"
    )
    servers.start_standby(home, server.name, STANDBY)
    return server


def brake(**limits: Any) -> Brake:
    """Waits of a second, and no limit that a server at rest could reach."""
    lax = {
        "replica_lag": "1h", "replica_bytes": "1TiB", "wal_backlog": 100_000, "slot_retained": "1TiB",
        "disk": 1.0, "sessions": 1.0, "first_wait": "1s", "longest_wait": "1s",
    }  # fmt: skip
    return Brake(**{**lax, **limits})


def go(server: PostgresServer, settings: Brake, seconds: float = 0, **how: Any) -> str:
    """What a job is told whose window ends ``seconds`` from now."""
    with connect(server.conninfo) as connection:
        return hold(connection, settings, ends=datetime.now(UTC) + timedelta(seconds=seconds), **how)()


def until_free(server: PostgresServer, settings: Brake) -> None:
    processes.wait_until(lambda: go(server, settings) == "", 20, "the brake to be released")


def write(server: PostgresServer, mib: int) -> None:
    server.superuser(WRITE_MIB.format(mib))


@contextlib.contextmanager
def paused(home: Home) -> Iterator[None]:
    with servers.superuser(home, STANDBY) as standby:
        standby.execute("select pg_wal_replay_pause()")
        state = "select pg_get_wal_replay_pause_state()"
        processes.wait_until(lambda: standby.execute(state).fetchone() == ("paused",), 10, "the replay to pause")
        try:
            yield
        finally:
            standby.execute("select pg_wal_replay_resume()")


def test_a_standby_far_behind_makes_it_wait_and_then_give_up_politely(
    server: PostgresServer, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    settings = brake(replica_bytes="4MiB", longest_wait="2s")
    until_free(server, settings)
    with paused(home):
        write(server, 8)
        began = time.monotonic()
        with caplog.at_level(logging.WARNING, logger="upkeep.postgres.brake"):
            said = go(server, settings, seconds=4)
        assert 3.9 < time.monotonic() - began < 6
        assert said.startswith("standby postgres.strained_standby is ")
        assert re.search(r"MiB behind \(limit 4\.0 MiB\) \(waited [45]\.\d s\)$", said)
        waits = [record.message for record in caplog.records if "waiting" in record.message]
        # Each twice as long as the one before, up to the longest; the last only as long as the window is.
        first, second, *rest = (float(wait.split("waiting ")[1].split(" s:")[0]) for wait in waits)
        assert (first, second) == (1.0, 2.0)
        assert all(wait <= 1.0 for wait in rest)
        assert "standby postgres.strained_standby is" in waits[0], "the log shows why it waits"
    until_free(server, settings)


@pytest.mark.soak
def test_a_gigabyte_behind_by_the_usual_settings(server: PostgresServer, home: Home) -> None:
    usual = Brake(first_wait="1s", longest_wait="2s")  # type: ignore[arg-type]
    with paused(home):
        for _ in range(32):
            write(server, 32)
        said = go(server, usual, seconds=3)
        assert "standby postgres.strained_standby is 1.0 GiB behind (limit 256.0 MiB)" in said
    processes.wait_until(lambda: go(server, usual) == "", 120, "the standby to catch up")


def test_a_standby_behind_in_time(server: PostgresServer, home: Home) -> None:
    settings = brake(replica_lag="300ms")
    write(server, 1)
    until_free(server, settings)
    with paused(home):
        for _ in range(3):
            write(server, 1)
            time.sleep(0.3)
        assert "s behind (limit 300ms)" in go(server, settings)
    # A standby at rest reports every ten seconds.
    write(server, 1)
    until_free(server, settings)


def test_once_the_strain_is_over_work_goes_on(server: PostgresServer, home: Home) -> None:
    settings = brake(replica_bytes="4MiB")
    with contextlib.ExitStack() as pause:
        pause.enter_context(paused(home))
        write(server, 8)
        relief = threading.Timer(1.5, pause.close)
        relief.start()
        assert go(server, settings, seconds=20) == ""
        relief.join()


def test_wal_that_is_not_archived(server: PostgresServer) -> None:
    settings = brake(wal_backlog=2)
    until_free(server, settings)
    server.superuser("alter system set archive_command = 'false'")
    try:
        server.superuser("select pg_reload_conf()")
        for _ in range(4):
            write(server, 1)
            server.superuser("select pg_switch_wal()")
        processes.wait_until(lambda: go(server, settings) != "", 10, "the backlog to grow")
        assert go(server, settings).endswith("WAL segments wait to be archived (limit 2)")
    finally:
        server.superuser("alter system set archive_command = 'true'")
        server.superuser("select pg_reload_conf()")
    # The archiver tries a failed segment again after a minute; a new one starts at once.
    server.superuser("select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'archiver'")
    server.superuser("select pg_switch_wal()")
    until_free(server, settings)


def test_a_slot_that_nobody_reads(server: PostgresServer) -> None:
    settings = brake(slot_retained="24MiB")
    server.superuser("checkpoint")
    server.superuser("select pg_create_physical_replication_slot('forgotten', true)")
    try:
        assert go(server, settings) == ""
        write(server, 32)
        assert go(server, settings).startswith("slot forgotten holds back ")
    finally:
        server.superuser("select pg_drop_replication_slot('forgotten')")
    until_free(server, settings)


def test_too_many_sessions_at_work_ours_not_counted(server: PostgresServer) -> None:
    settings = brake(sessions=0.1)
    with contextlib.ExitStack() as open_sessions:

        def work(application: str) -> None:
            session = open_sessions.enter_context(
                psycopg.connect(make_conninfo(server.owner, application_name=application), autocommit=True)
            )
            thread = threading.Thread(target=asleep, args=[session])
            thread.start()
            # Last in, first out: cancelled, then waited for, then closed.
            open_sessions.callback(thread.join)
            open_sessions.callback(session.cancel_safe)

        for application in ("upkeep", "upkeep", "api", "api"):
            work(application)
        processes.wait_until(lambda: at_work(server) == 4, 5, "sessions to be at work")
        assert go(server, settings) == "", "2 of 20 are not more than 10 %"
        work("api")
        processes.wait_until(lambda: at_work(server) == 5, 5, "one more session to be at work")
        assert go(server, settings) == "15% of max_connections are at work (limit 10%)"
    until_free(server, settings)


def asleep(session: psycopg.Connection[Any]) -> None:
    with contextlib.suppress(psycopg.errors.QueryCanceled):
        session.execute("select pg_sleep(60)")


def at_work(server: PostgresServer) -> int:
    counted = "select count(*)::int from pg_stat_activity where state = 'active' and query like '%pg_sleep(60)%'"
    return int(server.superuser(counted + " and pid <> pg_backend_pid()")[0][0])


def test_the_disk_when_it_is_known_and_when_it_is_not(server: PostgresServer, caplog: pytest.LogCaptureFixture) -> None:
    assert go(server, brake(disk=0.9), disk=lambda: 0.89) == ""
    assert go(server, brake(disk=0.9), disk=lambda: 0.934) == "the disk is 93.4% full (limit 90%)"
    assert caplog.text == ""
    with connect(server.conninfo) as connection:
        asked = hold(connection, brake(), ends=None, disk=lambda: None)
        assert (asked(), asked()) == ("", "")
    assert caplog.text.count("how full the disk is cannot be told") == 1, "unknown does not brake, and is said"


def test_the_flag_of_the_connection_is_read_afresh_each_time(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    flagged = servers.connection_to(server.home, server.name, "upkeep", DATABASE)

    def set_flag(value: Any) -> None:
        extra = {**flagged["extra"], "upkeep_hold": value}
        monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_POSTGRES", json.dumps({**flagged, "extra": extra}))

    set_flag("migration until noon")
    with connect(postgres_conninfo("studyspot_postgres")) as connection:
        asked = hold(connection, brake(), ends=datetime.now(UTC), flag=lambda: hold_flag("studyspot_postgres"))
        assert asked() == "a person asked for a hold: migration until noon"
        for unset in ("", False, None, "false"):
            set_flag(unset)
            assert asked() == ""
        set_flag(True)
        assert asked() == "a person asked for a hold: `upkeep_hold` is set on connection studyspot_postgres"


def test_without_an_end_it_gives_up_after_its_longest_wait(server: PostgresServer) -> None:
    began = time.monotonic()
    with connect(server.conninfo) as connection:
        said = hold(connection, brake(), ends=None, flag=lambda: "no")()
        assert said.startswith("a person asked for a hold: no (waited 1.")
    assert time.monotonic() - began < 3


def test_a_role_that_may_not_look_is_told_so(server: PostgresServer) -> None:
    server.superuser("create role blind login password 'blind'")
    try:
        with (
            connect(make_conninfo(server.conninfo, user="blind", password="blind")) as connection,
            pytest.raises(CredentialsError, match=r"HINT: as a superuser: grant pg_monitor to blind;"),
        ):
            hold(connection, brake(), ends=datetime.now(UTC))()
    finally:
        server.superuser("drop role blind")


def test_no_job_runs_twice_at_once_in_one_database(server: PostgresServer) -> None:
    with connect(server.conninfo) as first, connect(server.conninfo) as second:
        with exclusive(first, "reindex") as mine, exclusive(second, "reindex") as theirs:
            assert (mine, theirs) == (True, False)
            with exclusive(second, "retention") as another:
                assert another
        with exclusive(second, "reindex") as free:
            assert free
