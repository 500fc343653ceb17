"""``python -m sandbox.hold HOME SERVER WRONG``: keeps something wrong for as long as it runs.

Faults start it as a process of the sandbox and stop it to heal. It prints ``holding`` once the wrong is there. When it
ends its sockets close, and the servers roll back what it had open.
"""

from __future__ import annotations

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
    """A session that waits for a row that another one, idle in its transaction, has updated."""
    name = "blocked_query"
    with _application(home, server, name) as holder, _application(home, server, name) as waiter:
        holder.execute("update users set last_login = last_login where id = (select min(id::text)::uuid from users)")
        statement = "update users set last_login = now() where id = (select min(id::text)::uuid from users)"
        threading.Thread(target=waiter.execute, args=(statement,), daemon=True).start()
        while not _waits(home, server):
            time.sleep(0.05)
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


WRONGS = {
    "idle_in_transaction": idle_in_transaction,
    "blocked_query": blocked_query,
    "long_query": long_query,
    "connections": connections,
    "writes": writes,
    "misses": misses,
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
