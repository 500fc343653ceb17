"""
1,501 tables of which 11 need VACUUM: ours, chosen by need, against ``vacuumdb --analyze``, which does all.

Forty of the tables are large, as in any application; the eleven are among them.

Both are timed as whole processes with one session each, by the maintenance role, on the same data brought into the
same state before each. Ours is throttled as a platform file's defaults say; vacuumdb is not.
"""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

import psycopg

from bench.server import Server, server
from bench.timing import RUNS, seconds

TABLES, LARGE, IN_NEED = 1501, 40, 11

LOAD = """
do $$ begin
    for i in 0..{last} loop
        execute format('create table t%s (id int primary key, state int, note text)', i);
        execute format(
            'insert into t%s select i, i %% 16, md5(i::text) from generate_series(1, %s) as i',
            i, case when i < {large} then 40000 else 200 end
        );
        execute format('create index on t%s (state)', i);
        commit;
    end loop;
end $$
"""

OURS = """
import json, sys
from upkeep.platforms.services import Vacuum
from upkeep.postgres.needs import tables_in_need
from upkeep.postgres.vacuum import care_on, finish, gentle
settings = Vacuum()
with gentle(sys.argv[1], settings) as connection:
    needs = tables_in_need(connection, settings)
    done = [care_on(connection, need.schema, need.name, settings)["state"] for need in needs]
finish(sys.argv[1], settings)
print(json.dumps(done))
"""


def vacuum(tables: int = TABLES, large: int = LARGE, in_need: int = IN_NEED) -> dict[str, Any]:
    """Seconds, and MB of WAL, which standbys and archive have to carry."""
    with server(shared_buffers="256MB") as arena:
        _load(arena, tables, large)
        contenders = {
            "ours": [sys.executable, "-c", OURS, arena.maintenance],
            "baseline": [str(arena.programs / "vacuumdb"), "--analyze", "--quiet", "--dbname", arena.maintenance],
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        cpu: dict[str, list[float]] = {name: [] for name in contenders}
        wal: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(RUNS + 1):
            for name, argv in contenders.items():
                _churn(arena, in_need)
                before = arena.number("select pg_current_wal_lsn() - '0/0'")
                wall, busy, said = seconds(argv, arena.env)
                times[name].append(wall)
                cpu[name].append(busy)
                wal[name].append((arena.number("select pg_current_wal_lsn() - '0/0'") - before) / 1024**2)
                _proven(arena, name, said, in_need)
    pairs = list(zip(times["ours"], times["baseline"], strict=True))[1:]
    return {
        **{name: round(statistics.median(values[1:]), 3) for name, values in times.items()},
        "ratio": round(statistics.median(mine / theirs for mine, theirs in pairs), 3),
        "ours_cpu": round(statistics.median(cpu["ours"][1:]), 3),
        "ours_wal_mb": round(statistics.median(wal["ours"][1:]), 1),
        "baseline_wal_mb": round(statistics.median(wal["baseline"][1:]), 1),
        "tables": tables,
        "large": large,
        "in_need": in_need,
        "runs": RUNS,
    }


def _load(arena: Server, tables: int, large: int) -> None:
    with psycopg.connect(arena.application, autocommit=True) as connection:
        connection.execute(LOAD.format(last=tables - 1, large=large))  # type: ignore[call-overload]
        # What other nights did.
        connection.execute("vacuum (freeze, analyze)")


def _churn(arena: Server, in_need: int) -> None:
    """A third of each table in need dies; then a checkpoint, so that both write the same full pages again."""
    arena.run(*(f"update t{number} set state = state + 1 where id % 3 = 0" for number in range(in_need)))
    with psycopg.connect(arena.superuser, autocommit=True) as connection:
        connection.execute("checkpoint")


def _proven(arena: Server, name: str, said: str, in_need: int) -> None:
    """Each has done what there was to do."""
    if name == "ours" and json.loads(said) != ["done"] * in_need:
        raise RuntimeError(f"ours did something else: {said}")
    left = arena.number("select count(*) from pg_stat_user_tables where n_dead_tup > 1000")
    if left:
        raise RuntimeError(f"{name} left {left} tables with dead rows")
