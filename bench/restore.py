"""
A restore that is proved, against the handbook's: download, gunzip, psql.

Ours makes a throw-away cluster, restores into it by both cores, counts and digests every table, looks at sequences,
extensions and every B-tree, and stops it. The handbook's loads into a new database of the running server (its fsync is
off, as everywhere in the sandbox) and looks at nothing.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from bench.backup import BUCKET, SCALE, client, ours, prepared
from bench.baselines.backup import back_up
from bench.baselines.backup import restore as gunzip_psql
from bench.server import DATABASE, Server
from bench.timing import RUNS
from sandbox.servers import s3
from upkeep.backup import verification
from upkeep.backup.store import Store


def restore(scale: int = SCALE) -> dict[str, Any]:
    """Both in turn, medians."""
    with prepared(scale) as made, tempfile.TemporaryDirectory(prefix="up-", dir="/tmp") as place:
        s3_client = client(s3.connection_to(made.home))
        psql, key = str(made.programs / "psql"), "handbook.sql.gz"
        back_up(s3_client, str(made.programs / "pg_dump"), made.superuser, made.env, Path(place), BUCKET, key)
        report = ours(made)
        subject = verification.Subject(
            DATABASE, Store(s3_client, BUCKET), "database/", report["id"], programs=[made.programs]
        )
        phases: list[dict[str, float]] = []

        def proved() -> None:
            verdict = verification.restore(subject, Path(place), (), lambda path: None, lambda path: None)
            assert not verdict.faults, verdict.faults
            assert not verdict.unknown, verdict.unknown
            phases.append(verdict.facts["seconds"])

        rivals: dict[str, Callable[[], Any]] = {
            "ours": proved,
            "baseline": lambda: gunzip_psql(
                s3_client, psql, make_conninfo(made.superuser, dbname="copy"), made.env, Path(place), BUCKET, key
            ),
        }
        seen: dict[str, list[float]] = {name: [] for name in rivals}
        for _ in range(RUNS):
            for name, rival in rivals.items():
                _reset(made)
                began = time.perf_counter()
                rival()
                seen[name].append(time.perf_counter() - began)
    return {
        **{name: round(statistics.median(times), 2) for name, times in seen.items()},
        "ratio": round(statistics.median(a / b for a, b in zip(seen["ours"], seen["baseline"], strict=True)), 3),
        "phases": {name: round(statistics.median(one[name] for one in phases), 2) for name in phases[0]},
        "scale": scale,
        "runs": RUNS,
    }


def _reset(made: Server) -> None:
    with psycopg.connect(made.superuser, autocommit=True) as connection:
        connection.execute("drop database if exists copy with (force)")
        connection.execute("create database copy template template0")
        connection.execute("checkpoint")
