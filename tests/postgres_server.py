"""A PostgreSQL server for tests: the application's owner, Upkeep's least roles, and nobody who vacuums unasked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import psycopg
from psycopg.conninfo import make_conninfo

from sandbox import processes
from sandbox.home import Home
from sandbox.servers import postgres as servers
from upkeep.platforms.services import Vacuum
from upkeep.postgres.needs import Need, tables_in_need
from upkeep.postgres.vacuum import care, gentle

DATABASE = "studyspot"
VACUUM = Vacuum()
VERSIONS = (15, 17, 18)


class PostgresServer:
    """A cluster with Upkeep's least roles, where only this test vacuums."""

    def __init__(self, home: Home, version: int, *, name: str = "", **settings: str | int | bool) -> None:
        self.home, self.version, self.name = home, version, name or f"postgres.v{version}"
        usual = {"autovacuum": False, "max_prepared_transactions": 2}
        servers.start_cluster(home, self.name, version, settings={**usual, **settings})
        servers.prepare_platform(home, self.name, DATABASE)
        # Ten seconds otherwise, until the server looks whether a killed worker is still there.
        self.superuser("alter role upkeep set client_connection_check_interval = '1s'")
        self.conninfo = servers.dsn(home, self.name, "upkeep", DATABASE)
        self.owner = servers.dsn(home, self.name, "app_owner", DATABASE)
        """The application's, not Upkeep's owner role."""

    def __call__(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """As the application's owner."""
        with psycopg.connect(self.owner, autocommit=True) as connection:
            done = connection.execute(statement, parameters or None)  # type: ignore[call-overload]
            return done.fetchall() if done.description else []

    def superuser(self, statement: str) -> list[tuple[Any, ...]]:
        with servers.superuser(self.home, self.name, DATABASE) as connection:
            done = connection.execute(statement)
            return done.fetchall() if done.description else []

    def needs(self, settings: Vacuum = VACUUM, **how: Any) -> dict[str, Need]:
        with gentle(self.conninfo, settings) as connection:
            return {need.table: need for need in tables_in_need(connection, settings, **how)}

    def care(self, name: str, settings: Vacuum = VACUUM, schema: str = "public", **how: Any) -> dict[str, Any]:
        return care(self.conninfo, schema, name, settings, **how)

    def empty(self) -> Self:
        """What an earlier test made is gone."""
        for (name,) in self(
            "select format('%I.%I', schemaname, tablename) from pg_tables where tableowner = 'app_owner'"
        ):
            self(f"drop table if exists {name} cascade")
        for (name,) in self(
            "select format('%I', nspname) from pg_namespace where pg_get_userbyid(nspowner) = 'app_owner'"
        ):
            self(f"drop schema {name} cascade")
        return self

    @contextmanager
    def session(self, *statements: str) -> Iterator[psycopg.Connection[Any]]:
        """The application, in the middle of a transaction."""
        with psycopg.connect(make_conninfo(self.owner, application_name="api")) as connection:
            for statement in statements:
                connection.execute(statement)  # type: ignore[call-overload]
            yield connection
            connection.rollback()


def table(server: PostgresServer, name: str, rows: int = 10_000, *, dead: int = 0, options: str = "") -> None:
    """A table with ``rows`` rows, freshly vacuumed and analyzed, of which ``dead`` were then updated."""
    server(f"create table {name} (id int primary key, note text)" + (f" with ({options})" if options else ""))
    server(f"insert into {name} select i, repeat('x', 50) from generate_series(1, {rows}) as i")
    server(f"vacuum analyze {name}")
    if dead:
        server(f"update {name} set note = 'changed' where id <= {dead}")
    settle(server, name)


def settle(server: PostgresServer, name: str) -> None:
    """Before 15 sessions told the statistics collector only now and then; from 15 on when they end."""
    wanted = "select pg_stat_get_live_tuples(%s::regclass) > 0 or pg_stat_get_dead_tuples(%s::regclass) > 0"
    processes.wait_until(lambda: server(wanted, name, name)[0][0], 5, f"statistics of {name}")
