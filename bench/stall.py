"""
An application at 100 transactions a second while its database is maintained: who makes it wait, and how long?

The handbooks' way is ANALYZE, VACUUM ANALYZE and REINDEX DATABASE. Ours is VACUUM and ANALYZE by need, then a
concurrent rebuild of the index that is worth it. Idle is the control: nobody maintains anything.

A transaction's wait runs from when it was due, so one that had to queue behind a stalled one counts in full.
"""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from bench.baselines import handbook
from bench.server import DATABASE, Server, server
from bench.timing import RUNS

ABOVE_CONTROL_MS = 100.0
LOCK_WAIT_MS = 50
LOST = 99.0

OURS = """
import sys
from datetime import UTC, datetime, timedelta
from upkeep.platforms.database import Reindex
from upkeep.platforms.services import Vacuum
from upkeep.postgres.needs import tables_in_need
from upkeep.postgres.reindex.choose import choose
from upkeep.postgres.reindex.history import COLD_START, Speed
from upkeep.postgres.reindex.rebuild import rebuild
from upkeep.postgres.session import connect
from upkeep.postgres.vacuum import care_on, finish, gentle
maintenance, owner = sys.argv[1:]
ends = datetime.now(UTC) + timedelta(minutes=10)
settings = Vacuum()
with gentle(maintenance, settings) as connection:
    for need in tables_in_need(connection, settings):
        done = care_on(connection, need.schema, need.name, settings, ends=ends)
        assert done["state"] == "done", done
finish(maintenance, settings)
with connect(maintenance) as connection:
    choice = choose(connection, Reindex(), {}, Speed(COLD_START, {}), left=ends - datetime.now(UTC))
assert choice.candidates
for one in choice.candidates:
    done = rebuild(maintenance, owner, one.as_dict(), Reindex(), seconds=one.seconds, go=lambda: "",
                   free=lambda: 1e12, ends=ends)
    assert done["state"] == "done", done
"""

CHURN = (
    "update pgbench_accounts set abalance = abalance + 1 where aid % 4 = 0",
    "truncate sessions",
    "insert into sessions select i, md5(i::text) from generate_series(1, {sessions}) as i",
    "vacuum (analyze) sessions",
    "delete from sessions where id % 5 <> 0",
    "vacuum sessions",
    "analyze sessions",
)
"""A quarter of the accounts dies; an index is left four fifths empty."""


@dataclass
class Waits:
    """What the application lived through in one run."""

    longest_ms: float
    lock_waits: int
    """Waits of its own sessions for locks, longer than 50 ms."""

    transactions: int
    maintenance_s: float


def stall(scale: int = 20, rate: int = 100, runs: int = RUNS) -> dict[str, Any]:
    """
    Longest waits in seconds; ``ratio`` is ``LOST`` when ours does not stay within its own bounds.

    :param scale: of pgbench: 100,000 accounts each.
    """
    with server(shared_buffers="256MB", deadlock_timeout=f"{LOCK_WAIT_MS}ms") as arena:
        _load(arena, scale)
        contenders: dict[str, Callable[[], object]] = {
            "control": lambda: None,
            "handbook": lambda: handbook.maintain(arena.programs / "psql", arena.superuser, DATABASE, arena.env),
            "ours": lambda: subprocess.run(
                [sys.executable, "-c", OURS, arena.maintenance, arena.upkeep_owner],
                env=arena.env, check=True,
            ),
        }  # fmt: skip
        lasts_s = _longest_job(arena, scale, contenders)
        seen: dict[str, list[Waits]] = {name: [] for name in contenders}
        for _ in range(runs):
            for name, maintain in contenders.items():
                _churn(arena, scale)
                while (waits := _live_through(arena, maintain, rate, lasts_s)) is None:
                    lasts_s *= 2
                    _churn(arena, scale)
                seen[name].append(waits)
    longest = {name: statistics.median(each.longest_ms for each in them) for name, them in seen.items()}
    above = statistics.median(
        mine.longest_ms - idle.longest_ms for mine, idle in zip(seen["ours"], seen["control"], strict=True)
    )
    lock_waits = {name: sum(each.lock_waits for each in them) for name, them in seen.items()}
    kept = above <= ABOVE_CONTROL_MS and lock_waits["ours"] == 0
    ratio = statistics.median(
        mine.longest_ms / theirs.longest_ms for mine, theirs in zip(seen["ours"], seen["handbook"], strict=True)
    )
    return {
        "ours": round(longest["ours"] / 1000, 4),
        "baseline": round(longest["handbook"] / 1000, 4),
        "ratio": round(ratio, 4) if kept else LOST,
        "control": round(longest["control"] / 1000, 4),
        "above_control_ms": round(above, 1),
        "ratio_above_control": round(
            above / 1000 / max(longest["handbook"] / 1000 - longest["control"] / 1000, 0.001), 4
        ),
        "lock_waits_over_50_ms": lock_waits,
        "maintenance_s": {
            name: round(statistics.median(each.maintenance_s for each in them), 1) for name, them in seen.items()
        },
        "transactions": min(each.transactions for them in seen.values() for each in them),
        "scale": scale,
        "runs": runs,
    }


def _load(arena: Server, scale: int) -> None:
    pgbench = [arena.programs / "pgbench", "--initialize", "--quiet", f"--scale={scale}", "--dbname", arena.application]
    subprocess.run(pgbench, env=arena.env, check=True, capture_output=True)
    arena.run("create table sessions (id int primary key, token text)", "create index on sessions (token)")
    _churn(arena, scale)


def _churn(arena: Server, scale: int) -> None:
    arena.run(*(statement.format(sessions=scale * 20_000) for statement in CHURN))
    with psycopg.connect(arena.superuser, autocommit=True) as connection:
        connection.execute("checkpoint")


def _longest_job(arena: Server, scale: int, contenders: dict[str, Callable[[], object]]) -> int:
    """Seconds that a run has to last so that everybody gets through, the application alongside."""
    longest = 0.0
    for maintain in contenders.values():
        _churn(arena, scale)
        began = time.monotonic()
        maintain()
        longest = max(longest, time.monotonic() - began)
    return math.ceil(longest * 1.5) + 4


def _live_through(arena: Server, maintain: Callable[[], object], rate: int, lasts_s: int) -> Waits | None:
    """None when the maintenance outlasted the application."""
    with tempfile.TemporaryDirectory() as directory:
        at = arena.log.stat().st_size
        application = subprocess.Popen(
            [
                *(arena.programs / "pgbench", "--no-vacuum", "--builtin=simple-update", f"--rate={rate}"),
                *("--client=10", "--jobs=1", f"--time={lasts_s}", "--log", "--dbname", arena.application),
            ],
            env=arena.env, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        time.sleep(1)
        began = time.monotonic()
        maintain()
        took = time.monotonic() - began
        if application.poll() is not None:
            return None
        _, said = application.communicate(timeout=lasts_s + 60)
        if application.returncode:
            raise RuntimeError(f"the application failed: {said.decode()[-500:]}")
        waits = [
            float(line.split()[2]) / 1000
            for file in Path(directory).glob("pgbench_log.*")
            for line in file.read_text().splitlines()
        ]
    with arena.log.open() as log:
        log.seek(at)
        waiting = sum(" pgbench LOG: " in line and " still waiting for " in line for line in log)
    return Waits(longest_ms=max(waits), lock_waits=waiting, transactions=len(waits), maintenance_s=took)
