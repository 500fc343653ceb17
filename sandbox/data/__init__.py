"""Sample data of both platforms: made on the server, from a seed.

The same seed and day give the same rows. Sizes at scale 1 are about 60 MB a platform; ages spread over years, so
that retention finds something old.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
from psycopg import sql

PLATFORMS = ("studyspot", "adaptive_learning")

CHURNED = {"studyspot": ("bookings", "users"), "adaptive_learning": ("attempts", "user_sessions")}
"""Tables that ``churn`` leaves full of dead rows, with autovacuum off so that they stay."""

_SQL = Path(__file__).parent


def load(conninfo: str, platform: str, scale: float, *, seed: int = 1) -> bool:
    """
    Create the tables of ``platform`` and fill them, in one transaction; False when they are there already.

    :param conninfo: connects as the role that shall own the tables.
    :param scale: 1 makes about 60 MB; rows grow in proportion.
    """
    assert platform in PLATFORMS
    with psycopg.connect(conninfo) as connection:
        # A loader that was killed may still be at work on the server; its transaction ends before ours begins.
        connection.execute("select pg_advisory_xact_lock(hashtextextended('sandbox.load', 0))")
        if _exists(connection, CHURNED[platform][0]):
            return False
        connection.execute("set local synchronous_commit = off; set local maintenance_work_mem = '256MB'")
        # Values go into the text because a statement that creates a function takes no parameters.
        functions = sql.SQL((_SQL / "functions.sql").read_text()).format(seed=seed, scale=scale)
        connection.execute(functions)
        connection.execute((_SQL / f"{platform}.sql").read_bytes())
    with psycopg.connect(conninfo, autocommit=True) as connection:
        # By name: the system's own tables belong to others, and each refusal would be a warning in the server's log.
        own = connection.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
        connection.execute(sql.SQL("vacuum (analyze) ") + sql.SQL(", ").join(sql.Identifier(name) for (name,) in own))
    return True


def churn(conninfo: str, *, seed: int = 1) -> bool:
    """
    Update and delete so that the tables in ``CHURNED`` hold dead rows until maintenance comes.

    One transaction; False when it has been done already.
    """
    with psycopg.connect(conninfo) as connection:
        connection.execute("select pg_advisory_xact_lock(hashtextextended('sandbox.load', 0))")
        platform = next(platform for platform in PLATFORMS if _exists(connection, CHURNED[platform][0]))
        if _autovacuum_is_off(connection, CHURNED[platform][0]):
            return False
        for table in CHURNED[platform]:
            connection.execute(sql.SQL("alter table {} set (autovacuum_enabled = off)").format(sql.Identifier(table)))
        statements = sql.SQL((_SQL / f"{platform}_churn.sql").read_text()).format(seed=seed)
        connection.execute(statements)
    return True


def _exists(connection: psycopg.Connection, table: str) -> bool:
    row = connection.execute("select to_regclass(%s) is not null", (f"public.{table}",)).fetchone()
    return bool(row and row[0])


def _autovacuum_is_off(connection: psycopg.Connection, table: str) -> bool:
    question = "select 'autovacuum_enabled=off' = any(reloptions) from pg_class where oid = to_regclass(%s)"
    row = connection.execute(question, (f"public.{table}",)).fetchone()
    return bool(row and row[0])
