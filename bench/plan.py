"""
``python -m upkeep plan`` on 10,000 tables with 30,000 indexes, of which 200 tables need care: at most two seconds.

Timed is asking every job and writing the answer as JSON and as a table. The whole command is timed apart (``command``):
it loads Airflow first, for its connections, and that has nothing to do with the database's size.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import yaml

from bench.server import Server, server
from bench.timing import RUNS, seconds
from upkeep.plan import Asked, text
from upkeep.plan.gather import gather, slots
from upkeep.platforms import load_file

MOST_S = 2.0

LOAD = """
do $$ begin
    for i in 0..{last} loop
        execute format('create table t%s (id int primary key, state int, note text)', i);
        execute format(
            'insert into t%s select i, i %% 16, md5(i::text) from generate_series(1, %s) as i',
            i, case when i < {in_need} then 2000 else 20 end
        );
        execute format('create index on t%s (state)', i);
        execute format('create index on t%s (note)', i);
        commit;
    end loop;
end $$
"""

PLATFORM = {
    "name": "studyspot",
    "title": "StudySpot",
    "severity": {
        "levels": {f"P{rank}": {"name": f"P{rank}", "respond": "15m", "resolve": "2h"} for rank in range(4)},
    },
    # Everything comes within the seven days that are asked for.
    "windows": {name: {"start": "0 2 * * *", "length": "2h"} for name in ("daily", "weekly", "monthly")},
    "postgres": {},
}


def plan(tables: int = 10_000, in_need: int = 200) -> dict[str, Any]:
    """Seconds of the slowest part of what a person waits for, against a limit instead of a baseline."""
    with server(shared_buffers="256MB") as arena, tempfile.TemporaryDirectory() as directory:
        _load(arena, tables, in_need)
        file = Path(directory) / "studyspot.yaml"
        file.write_text(yaml.safe_dump(PLATFORM))
        platform = load_file(file)
        times, items = [], 0
        for _ in range(RUNS + 1):
            now = datetime.now(UTC)
            began = time.perf_counter()
            asked = Asked(
                platform=platform,
                slots=slots(platform, now, 7),
                maintenance=arena.maintenance,
                owner=arena.upkeep_owner,
                ledger=None,
            )
            coming = gather(asked)
            text.as_json([coming], now=now, days=7)
            list(text.table([coming], colour=False, width=120, everything=True))
            times.append(time.perf_counter() - began)
            if coming.unknown:
                raise RuntimeError(f"somebody could not say: {coming.unknown}")
            items = sum(len(them) for them in coming.jobs.values())
        indexes = arena.number("select count(*) from pg_index where indrelid > 16384")
        env = {
            **arena.env,
            "UPKEEP_PLATFORMS": directory,
            "AIRFLOW_HOME": directory,
            "AIRFLOW_CONN_STUDYSPOT_POSTGRES": arena.as_uri("upkeep"),
            "AIRFLOW_CONN_STUDYSPOT_POSTGRES_OWNER": arena.as_uri("upkeep_owner"),
        }
        command = [seconds([sys.executable, "-m", "upkeep", "plan", "--json"], env) for _ in range(3)]
        found = sum(len(window["items"]) for window in json.loads(command[-1][2])["platforms"][0]["windows"])
        if min(found, items) < in_need:
            raise RuntimeError(f"{in_need} tables are in need; the command found {found} items, we {items}")
    ours = statistics.median(times[1:])
    return {
        "ours": round(ours, 3),
        "baseline": MOST_S,
        "ratio": round(ours / MOST_S, 3),
        "command": round(statistics.median(each[0] for each in command), 2),
        "jobs": sorted(coming.jobs),
        "items": items,
        "tables": tables,
        "indexes": indexes,
        "runs": RUNS,
    }


def _load(arena: Server, tables: int, in_need: int) -> None:
    with psycopg.connect(arena.application, autocommit=True) as connection:
        connection.execute(LOAD.format(last=tables - 1, in_need=in_need))  # type: ignore[call-overload]
        connection.execute("vacuum (analyze)")
        for number in range(in_need):
            connection.execute(f"update t{number} set state = state + 1")  # type: ignore[call-overload]
