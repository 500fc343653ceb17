"""A PostgreSQL server for one contest, with Upkeep's least roles; gone when the contest is over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from sandbox import __main__ as sandbox
from sandbox.home import Home
from sandbox.servers import postgres as servers

NAME = "postgres.bench"
DATABASE = "studyspot"


class Server:
    """PostgreSQL 17, where nobody vacuums unasked."""

    def __init__(self, home: Home, **settings: str | int | bool) -> None:
        servers.start_cluster(home, NAME, 17, settings={"autovacuum": False, "max_wal_size": "4GB", **settings})
        servers.prepare_platform(home, NAME, DATABASE)
        self.home = home
        facts = home.facts(NAME)
        self.maintenance = servers.dsn(home, NAME, "upkeep", DATABASE)
        self.upkeep_owner = servers.dsn(home, NAME, "upkeep_owner", DATABASE)
        self.application = servers.dsn(home, NAME, "app_owner", DATABASE)
        self.superuser = make_conninfo(facts["superuser_dsn"], dbname=DATABASE)
        self.log = home.logs / f"{NAME}.log"
        self.programs = Path(facts["bin"])
        library = {"LD_LIBRARY_PATH": facts["library_path"]} if facts["library_path"] else {}
        self.env = {**os.environ, **library, "PYTHONPATH": "plugins"}

    def as_uri(self, role: str) -> str:
        """Where ``role`` connects, as an Airflow connection."""
        parts = conninfo_to_dict(servers.dsn(self.home, NAME, role, DATABASE))
        return f"postgres://{role}:{quote(str(parts['password']))}@{parts['host']}:{parts['port']}/{DATABASE}"

    def run(self, *statements: str) -> None:
        """As the application's owner, each statement its own transaction."""
        with psycopg.connect(self.application, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)  # type: ignore[call-overload]

    def number(self, question: str) -> int:
        """The answer to a question of one number, asked by the superuser."""
        with psycopg.connect(self.superuser, autocommit=True) as connection:
            row = connection.execute(question).fetchone()  # type: ignore[call-overload]
        return int(row[0]) if row else 0


@contextmanager
def server(**settings: str | int | bool) -> Iterator[Server]:
    with sandbox.temporary() as home:
        yield Server(home, **settings)
