"""
Deleting 1.2 of 1.6 million rows while somebody holds an old snapshot, as a report or a dump does.

Ours walks from a stored lower bound; the LIMIT loop begins at the start of the index each time and meets every dead
entry there again. Ours is told 20 ms per transaction and no rest between them (250 ms and half as long by default), and
writes progress, the deletion ledger in the same and in another database all the while.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from bench.baselines.retention import limit_loop, one_big_delete
from bench.timing import RUNS
from sandbox import __main__ as sandbox
from sandbox.home import Home
from sandbox.servers import postgres as servers
from upkeep.ledger import Ledger, Run
from upkeep.ledger.migrate import migrate
from upkeep.platforms.database import Deletion, Retention, Table
from upkeep.postgres.session import connect
from upkeep.retention import deleting, records
from upkeep.retention import plan as planning

ROWS, EXPIRED = 1_600_000, 1_200_000
NAME, VERSION = "postgres.bench_retention", 17

DATA = f"""
create table ev (
    id bigint generated always as identity primary key, tenant int not null, ts timestamptz not null, email text,
    amount numeric(12, 2), payload text
);
insert into ev (tenant, ts, email, amount, payload)
select
    (random() * 500)::int,
    case when i <= {EXPIRED} then now() - interval '5 years' else now() - interval '1 year' end + i * interval '1 s',
    'u' || (random() * 1e6)::int || '@example.com', round((random() * 1000)::numeric, 2),
    md5(i::text) || md5((i * 7)::text)
from generate_series(1, {ROWS}) as i;
create index ev_ts on ev (ts);
create index ev_tenant_ts on ev (tenant, ts);
create index ev_email on ev (email);
create index ev_amount on ev (amount);
"""


def retention() -> dict[str, Any]:
    """Ours against the loop, in turn; the one big DELETE beside them, because it is fast and locks everything."""
    with sandbox.temporary() as home:
        settings = {"autovacuum": False, "shared_buffers": "256MB", "max_wal_size": "4GB"}
        servers.start_cluster(home, NAME, VERSION, settings=settings)
        servers.prepare_platform(home, NAME, "original")
        with psycopg.connect(servers.dsn(home, NAME, "app_owner", "original"), autocommit=True) as connection:
            connection.execute(DATA)
            connection.execute("vacuum analyze ev")
        with servers.superuser(home, NAME) as connection:
            connection.execute("create database ledger")
        ledger = make_conninfo(home.facts(NAME)["superuser_dsn"], dbname="ledger")
        migrate(ledger)
        rivals: dict[str, Callable[[], tuple[float, float, int]]] = {
            "ours": lambda: _ours(home, ledger),
            "loop": lambda: _baseline(home, limit_loop),
            "single": lambda: _baseline(home, one_big_delete),
        }
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in rivals}
        for _ in range(RUNS):
            for name, rival in rivals.items():
                _reset(home)
                with psycopg.connect(servers.dsn(home, NAME, "app_owner", "copy")) as reader:
                    reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                    reader.execute("select count(*) from pg_class")
                    seconds, longest, rows = rival()
                if rows != EXPIRED:
                    raise RuntimeError(f"{name} deleted {rows:,} rows")
                seen[name].append((seconds, longest))
        return _result(seen)


def _result(seen: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    def middle(name: str, place: int) -> float:
        return round(statistics.median(run[place] for run in seen[name]), 3)

    return {
        "ours": middle("ours", 0),
        "baseline": middle("loop", 0),
        "ratio": round(statistics.median(a[0] / b[0] for a, b in zip(seen["ours"], seen["loop"], strict=True)), 3),
        "ours_longest_transaction": middle("ours", 1),
        "loop_longest_transaction": middle("loop", 1),
        "one_big_delete": middle("single", 0),
        "one_big_delete_longest_transaction": middle("single", 1),
        "rows": EXPIRED,
        "runs": len(seen["ours"]),
    }


def _reset(home: Home) -> None:
    with servers.superuser(home, NAME) as connection:
        connection.execute("drop database if exists copy with (force)")
        connection.execute("create database copy template original strategy file_copy")
        connection.execute("alter database copy owner to app_owner")
        connection.execute("checkpoint")


def _baseline(home: Home, delete: Callable[[str, str], tuple[float, float, int]]) -> tuple[float, float, int]:
    # By then all that is expired is, and nothing else: two years lie between.
    return delete(servers.dsn(home, NAME, "app_owner", "copy"), f"{datetime.now(UTC).year - 3}-01-01")


def _ours(home: Home, ledger_conninfo: str) -> tuple[float, float, int]:
    with connect(servers.dsn(home, NAME, "upkeep", "copy"), settings={"TimeZone": "UTC"}) as connection:
        rule = Retention(column="ts", keep="3y")  # type: ignore[arg-type]
        (item,) = planning.make(connection, [Table(name="ev", retention=rule)], now=datetime.now(UTC))
    with Ledger(ledger_conninfo) as ledger:
        done = deleting.delete(
            servers.dsn(home, NAME, "upkeep_owner", "copy"),
            item,
            Deletion(batch="20ms", rest=0),  # type: ignore[arg-type]
            plan="0" * 64,
            record=records.Copier(ledger, Run(platform="bench", dag_id="bench", run_id="bench", task_id="retention")),
        )
    return done.seconds, done.longest_s, done.deleted
