"""
The page over a ledger after a year of 50 platforms: at most 300 ms each, and what 50 people at once wait for.

Timed is the request as Airflow serves it: login checked, permissions asked, ledger read, page written. First one person
who opens each page again and again (the slowest median counts), then 50 who do nothing else.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psycopg

from bench import year
from sandbox import __main__ as sandbox
from sandbox import processes
from sandbox.home import Home

MOST_S = 0.3

PAGES = {"overview": "", "platform": "platforms/shop_03/", "findings": "findings/?state=all", "incidents": "incidents/"}

SERVE = """
import sys
from fastapi import FastAPI
import uvicorn
from airflow.api_fastapi.app import get_auth_manager, init_auth_manager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.utils import db
from airflow.utils.session import create_session
from fastapi.middleware.gzip import GZipMiddleware
from upkeep.page.app import build_app
from upkeep.platforms import read_all
from upkeep.windows.timetable import timetable

db.initdb()
with create_session() as session:
    session.add(DagBundleModel(name="bench"))
    session.flush()
    for platform in read_all()[0]:
        for dag_id in (*timetable(platform), f"{platform.name}_health_watch"):
            session.add(DagModel(dag_id=dag_id, bundle_name="bench", is_stale=False, max_active_tasks=1))
init_auth_manager()
open(sys.argv[1], "w").write(get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="jo", role="ADMIN")))
app = FastAPI()
# As Airflow's own app has it.
app.add_middleware(GZipMiddleware, minimum_size=1024, compresslevel=5)
app.mount("/upkeep", build_app())
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
"""


def page(platforms: int = 50, days: int = 365, *, runs: int = 15, load_s: float = 60.0) -> dict[str, Any]:
    """Seconds of the slowest page, against a limit instead of a baseline; ``p50`` and ``p99`` of 50 at once."""
    with sandbox.temporary() as home:
        sandbox.up(home, only=["postgres.control"], scale=0.02)
        connection = home.state()["connections"]["upkeep_ledger"]
        names = {"host": "host", "port": "port", "user": "login", "password": "password", "dbname": "schema"}
        conninfo = psycopg.conninfo.make_conninfo(**{name: connection[ours] for name, ours in names.items()})
        began = time.perf_counter()
        year.fill(conninfo, platforms, days=days)
        filled_s = time.perf_counter() - began
        with tempfile.TemporaryDirectory() as directory:
            return {
                **_contest(home, Path(directory), connection, platforms, runs, load_s),
                "platforms": platforms,
                "filled_s": round(filled_s, 1),
            }


def _contest(
    home: Home, directory: Path, connection: dict[str, Any], platforms: int, runs: int, load_s: float
) -> dict[str, Any]:
    files, port, token = directory / "platforms", home.port("page"), directory / "token"
    files.mkdir()
    year.platform_files(files, platforms)
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "UPKEEP_"))},
        "PYTHONPATH": "plugins",
        "AIRFLOW_HOME": str(directory),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__API_AUTH__JWT_SECRET": "only-for-the-contest-" * 4,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{directory}/airflow.db?timeout=30",
        "AIRFLOW_CONN_UPKEEP_LEDGER": json.dumps(connection),
        "UPKEEP_PLATFORMS": str(files),
    }
    log = home.logs / "page.log"
    with log.open("w") as said:
        served = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(token), str(port)], env=env, stdout=said, stderr=said
        )
    try:
        base = f"http://127.0.0.1:{port}/upkeep/"
        processes.wait_until(lambda: _answers(base) or served.poll() is not None, 120, "the page", log)
        cookies = {"_token": token.read_text()}
        alone = _alone(base, cookies, runs)
        slowest = max(alone.values())
        crowd = asyncio.run(_crowd(base, cookies, load_s))
        return {
            "ours": slowest,
            "baseline": MOST_S,
            "ratio": round(slowest / MOST_S, 3),
            **alone,
            **crowd,
            "runs": runs,
        }
    finally:
        served.terminate()
        served.wait(20)


def _answers(base: str) -> bool:
    try:
        return httpx.get(base, timeout=5).status_code == 401
    except httpx.HTTPError:
        return False


def _alone(base: str, cookies: dict[str, str], runs: int) -> dict[str, float]:
    """Medians by page, in turn; the first round warms up."""
    taken: dict[str, list[float]] = {name: [] for name in PAGES}
    with httpx.Client(base_url=base, cookies=cookies, headers={"accept": "text/html"}, timeout=60) as client:
        for _ in range(runs + 1):
            for name, path in PAGES.items():
                began = time.perf_counter()
                client.get(path).raise_for_status()
                taken[name].append(time.perf_counter() - began)
    return {name: round(statistics.median(times[1:]), 3) for name, times in taken.items()}


async def _crowd(base: str, cookies: dict[str, str], seconds: float, clients: int = 50) -> dict[str, Any]:
    """So many at once, each opening one page after the other: mostly the overview, then some platform."""
    taken: list[float] = []
    until = time.perf_counter() + seconds
    paths = ["", "", "findings/", "incidents/", *(f"platforms/shop_{number:02d}/" for number in (3, 9, 12))]

    async def person(number: int) -> None:
        choose = random.Random(number)
        async with httpx.AsyncClient(base_url=base, cookies=cookies, timeout=60) as client:
            while time.perf_counter() < until:
                began = time.perf_counter()
                (await client.get(choose.choice(paths), headers={"accept": "text/html"})).raise_for_status()
                taken.append(time.perf_counter() - began)

    await asyncio.gather(*(person(number) for number in range(clients)))
    ordered = sorted(taken)
    return {
        "clients": clients,
        "requests": len(ordered),
        "per_s": round(len(ordered) / seconds, 1),
        "p50": round(ordered[len(ordered) // 2], 3),
        "p99": round(ordered[int(len(ordered) * 0.99)], 3),
    }
