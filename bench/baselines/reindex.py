"""Rebuilding indexes without looking: ``reindexdb --concurrently``, and one after the other in alphabetical order."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

ALPHABETICAL = """
select n.nspname, c.relname
from pg_index as i
join pg_class as c on c.oid = i.indexrelid
join pg_namespace as n on n.oid = c.relnamespace
where n.nspname = 'public' and i.indisvalid
order by n.nspname, c.relname
"""


@dataclass
class Done:
    """What came of it."""

    rebuilt: int = 0
    wasted: int = 0
    """Builds that were begun and came to nothing."""


def reindexdb(program: Path, dsn: str, env: Mapping[str, str], window_s: float | None) -> Done:
    """The whole database, by PostgreSQL's own tool; interrupted when the window closes, as ``timeout`` would."""
    process = subprocess.Popen([program, "--concurrently", "--dbname", dsn], env=dict(env), stderr=subprocess.DEVNULL)
    try:
        process.wait(timeout=window_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    with psycopg.connect(dsn) as connection:
        row = connection.execute("select count(*) from pg_index where not indisvalid").fetchone()
    return Done(wasted=row[0] if row else 0)


def alphabetical(dsn: str, window_s: float, lock_timeout: str = "0") -> Done:
    """Index by index until the window closes; what is running then is cancelled, and a failed build is dropped."""
    until = time.monotonic() + window_s
    done = Done()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("select set_config('lock_timeout', %s, false)", [lock_timeout])
        for schema, name in connection.execute(ALPHABETICAL).fetchall():
            left = until - time.monotonic()
            if left <= 0.001:
                break
            connection.execute("select set_config('statement_timeout', %s, false)", [str(int(left * 1000) + 1)])
            index = sql.Identifier(schema, name)
            try:
                connection.execute(sql.SQL("reindex index concurrently {}").format(index))
                done.rebuilt += 1
            except psycopg.OperationalError:
                done.wasted += 1
                connection.execute("set statement_timeout = '10s'")
                new = sql.Identifier(schema, f"{name}_ccnew")
                connection.execute(sql.SQL("drop index if exists {}").format(new))
    return done
