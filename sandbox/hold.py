"""``python -m sandbox.hold HOME SERVER WRONG``: keeps something wrong for as long as it runs.

Faults start it as a process of the sandbox and stop it to heal. It prints ``holding`` once the wrong is there. When it
ends its sockets close, and the servers roll back what it had open.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psycopg
import redis

from sandbox.home import Home
from sandbox.servers import postgres
from sandbox.servers.redis import client


def idle_in_transaction(home: Home, server: str, say: Callable[[], None]) -> None:
    """A session that took a row lock and forgot to commit."""
    with _application(home, server, "idle_in_transaction") as connection:
        connection.execute("select id from libraries order by id limit 1 for update")
        say()
        _for_ever()


def blocked_query(home: Home, server: str, say: Callable[[], None]) -> None:
    """
    Sessions that wait for rows which another one, idle in its transaction, has updated.

    Two take turns of half a minute, a quarter of one apart, as requests do that give up and are tried again: somebody
    has always waited for more than a moment, and nobody for a minute.
    """
    name = "blocked_query"
    with (
        _application(home, server, name) as holder,
        _application(home, server, name) as first,
        _application(home, server, name) as second,
    ):
        for row in ("min", "max"):
            holder.execute(_TOUCH.format(row))
        threading.Thread(target=_try_for_ever, args=(first, "min"), daemon=True).start()
        while not _waits(home, server):
            time.sleep(0.05)
        say()
        time.sleep(_PATIENCE_S / 2)
        _try_for_ever(second, "max")


_PATIENCE_S = 30
_TOUCH = "update users set last_login = last_login where id = (select {}(id::text)::uuid from users)"


def _try_for_ever(waiter: psycopg.Connection, row: str) -> None:
    waiter.execute(f"set lock_timeout = '{_PATIENCE_S}s'")
    waiter.commit()
    while True:
        with contextlib.suppress(psycopg.errors.LockNotAvailable):
            waiter.execute(_TOUCH.format(row))
        waiter.rollback()


def old_snapshot(home: Home, server: str, say: Callable[[], None]) -> None:
    """A report on a standby that was begun and never ended; it holds a snapshot, and no lock."""
    with postgres.superuser(home, server, "studyspot") as connection:
        connection.execute("set application_name = 'yearly report'; set idle_in_transaction_session_timeout = 0")
        connection.execute("begin isolation level repeatable read")
        connection.execute("select 1")
        say()
        _for_ever()


def long_query(home: Home, server: str, say: Callable[[], None]) -> None:
    """A statement that takes a day."""
    with _application(home, server, "long_query") as connection:
        # Without it the server would sleep on when this process is gone.
        connection.execute("set client_connection_check_interval = 500")
        connection.commit()
        say()
        connection.execute("select pg_sleep(86400)")


def connections(home: Home, server: str, say: Callable[[], None]) -> None:
    """Idle sessions until 93 % of those that ordinary roles may open are in use."""
    with postgres.superuser(home, server) as asking, ExitStack() as stack:
        row = asking.execute(
            "select sum(setting::int) filter (where name = 'max_connections')"
            " - sum(setting::int) filter (where name <> 'max_connections') from pg_settings"
            " where name in ('max_connections', 'superuser_reserved_connections', 'reserved_connections')"
        ).fetchone()
        assert row
        for _ in range(int(0.93 * row[0]) - _sessions(asking)):
            stack.enter_context(_application(home, server, "connections"))
        say()
        _for_ever()


def writes(home: Home, server: str, say: Callable[[], None]) -> None:
    """A transaction ten times a second that changes no row; 300 MB of WAL an hour, so that it may be forgotten."""
    with postgres.superuser(home, server) as connection:
        while True:
            connection.execute("select pg_logical_emit_message(true, 'sandbox', repeat('x', 8192))")
            say()
            time.sleep(0.1)


def misses(home: Home, server: str, say: Callable[[], None]) -> None:
    """Reads of keys that are not there: 2,000 at once, then 500 a second."""
    connection = client(home, server)
    _read_nothing(connection, 2000)
    say()
    while True:
        _read_nothing(connection, 50)
        time.sleep(0.1)


def clients(home: Home, server: str, say: Callable[[], None]) -> None:
    """Idle clients of Redis until 95 % of maxclients are connected."""
    asking = client(home, server)
    most = int(asking.config_get("maxclients")["maxclients"])
    missing = int(0.95 * most) - int(asking.info("clients")["connected_clients"])
    with ExitStack() as stack:
        for _ in range(missing):
            stack.enter_context(client(home, server).client()).ping()
        say()
        _for_ever()


WRONGS = {
    "idle_in_transaction": idle_in_transaction,
    "blocked_query": blocked_query,
    "old_snapshot": old_snapshot,
    "long_query": long_query,
    "connections": connections,
    "writes": writes,
    "misses": misses,
    "clients": clients,
}


def _application(home: Home, server: str, wrong: str) -> psycopg.Connection:
    target = postgres.dsn(home, server, "app", server.rpartition(".")[2])
    return psycopg.connect(target, application_name=postgres.held(wrong))


def _waits(home: Home, server: str) -> bool:
    with postgres.superuser(home, server) as connection:
        question = "select from pg_stat_activity where application_name = %s and wait_event_type = 'Lock'"
        return connection.execute(question, (postgres.held("blocked_query"),)).fetchone() is not None


def _sessions(asking: psycopg.Connection) -> int:
    row = asking.execute("select count(*) from pg_stat_activity where backend_type = 'client backend'").fetchone()
    return int(row[0]) if row else 0


def _read_nothing(connection: redis.Redis, times: int) -> None:
    pipeline = connection.pipeline(transaction=False)
    for number in range(times):
        pipeline.get(f"cache:nothing:{number}")
    pipeline.execute()


def _for_ever() -> None:
    while True:
        signal.pause()


def main(argv: list[str]) -> None:
    home, server, wrong = argv
    said = threading.Event()

    def say() -> None:
        if not said.is_set():
            said.set()
            print("holding", flush=True)

    WRONGS[wrong](Home(Path(home)), server, say)


if __name__ == "__main__":
    main(sys.argv[1:])
