"""Real servers for the tests. Each session has sandboxes of its own and stops every process it started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

# Before anything imports Airflow: tests never see the Airflow, the connections or the settings of whoever runs them.
for name in [name for name in os.environ if name.startswith(("AIRFLOW", "UPKEEP_"))]:
    del os.environ[name]
AIRFLOW_HOME = Path(tempfile.mkdtemp(prefix="upkeep-airflow-"))
os.environ["AIRFLOW_HOME"] = str(AIRFLOW_HOME)
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"
os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{AIRFLOW_HOME}/airflow.db?timeout=30"

import psycopg
import pytest

from sandbox import __main__ as sandbox
from sandbox import airflow
from sandbox.home import REPOSITORY, Home
from sandbox.inboxes.client import Inbox
from tests.postgres_server import VERSIONS, PostgresServer
from upkeep.ledger import Ledger, Run
from upkeep.ledger.migrate import migrate


def pytest_sessionfinish() -> None:
    shutil.rmtree(AIRFLOW_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def control() -> Iterator[Home]:
    """A sandbox with the control cluster: an empty Postgres 17 for ledgers."""
    with sandbox.temporary() as home:
        sandbox.up(home, only=["postgres.control"], scale=0.02)
        yield home


MIGRATED = "ledger_migrated"


@contextmanager
def fresh_ledger(control: Home) -> Iterator[dict[str, Any]]:
    """A migrated ledger of its own, as the connection ``upkeep_ledger`` names it."""
    connection = control.state()["connections"]["upkeep_ledger"]
    name = f"ledger_{uuid.uuid4().hex[:8]}"
    superuser = control.facts("postgres.control")["superuser_dsn"]
    with psycopg.connect(superuser, autocommit=True) as server:
        # All migrations once, and a copy for each test.
        if server.execute("select from pg_database where datname = %s", [MIGRATED]).fetchone() is None:
            server.execute(f"create database {MIGRATED} owner {connection['login']}")
            migrate(libpq({**connection, "schema": MIGRATED}))
        server.execute(f"create database {name} template {MIGRATED} owner {connection['login']}")
    yield {**connection, "schema": name}
    with psycopg.connect(superuser, autocommit=True) as server:
        server.execute(f"drop database {name} with (force)")


def libpq(connection: dict[str, Any]) -> str:
    names = {"host": "host", "port": "port", "user": "login", "password": "password", "dbname": "schema"}
    return psycopg.conninfo.make_conninfo(**{name: connection[ours] for name, ours in names.items()})


@pytest.fixture
def ledger_conninfo(control: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh, migrated ledger behind the connection ``upkeep_ledger``."""
    with fresh_ledger(control) as made:
        monkeypatch.setenv("AIRFLOW_CONN_UPKEEP_LEDGER", json.dumps(made))
        yield libpq(made)


@pytest.fixture
def ledger(ledger_conninfo: str) -> Iterator[Ledger]:
    with Ledger(ledger_conninfo) as opened:
        yield opened


@pytest.fixture(scope="session")
def home() -> Iterator[Home]:
    """A sandbox for the servers that several files of tests share; each is started when it is first asked for."""
    with sandbox.temporary() as home:
        yield home


@pytest.fixture(scope="session")
def each(home: Home) -> Callable[..., Any]:
    """Clusters of PostgreSQL 15, 17 and 18 with Upkeep's least roles: ``each(17)``, ``each(17, ReindexServer)``."""
    return cache(lambda version, kind=PostgresServer: kind(home, version, name=f"{kind.__name__}.{version}".lower()))


@pytest.fixture(params=[pytest.param(version, marks=pytest.mark.soak if version == 15 else ()) for version in VERSIONS])
def server(each: Callable[..., Any], request: pytest.FixtureRequest) -> Any:
    """The same test on every version of the file's ``SERVER``; in its database is nothing of an earlier one."""
    return each(request.param, kind_for(request)).empty()


@pytest.fixture
def seventeen(each: Callable[..., Any], request: pytest.FixtureRequest) -> Any:
    return each(17, kind_for(request)).empty()


def kind_for(request: pytest.FixtureRequest) -> type[PostgresServer]:
    return getattr(request.module, "SERVER", PostgresServer)


def run(number: int = 1, *, platform: str = "studyspot", task: str = "health") -> Run:
    """A run like those that operators make."""
    return Run(
        platform=platform,
        dag_id=f"{platform}_daily_maintenance",
        run_id=f"manual__{number}",
        task_id=task,
        log_url="https://airflow.example/log",
        run_url="https://airflow.example/run",
    )


@dataclass
class Live:
    """A whole Airflow that looks after a whole sandbox."""

    home: Home
    api: airflow.Api
    inbox: Inbox
    platforms: Path
    """Its platform files: copies of ours, with clocks short enough for tests."""

    dags: Path
    """Where a test may put Dags of its own, beside ours."""

    def ledger(self) -> Ledger:
        return Ledger(airflow.ledger_conninfo(self.home))

    def deliver(self) -> None:
        """Everything that a task had no time to tell is told now."""
        run_id = self.api.trigger("alert_delivery")
        state = self.api.wait("alert_delivery", run_id)["state"]
        assert state == "success", self.api.log("alert_delivery", run_id, "deliver")

    def maintain(self, platform: str) -> tuple[str, dict[str, str]]:
        """One daily run by hand: its id, and the states of it (``""``) and its tasks (``vacuum[public.users]``)."""
        return self.maintain_all([platform])[platform]

    def maintain_all(self, platforms: Iterable[str]) -> dict[str, tuple[str, dict[str, str]]]:
        """One daily run each, at the same time."""
        runs = {platform: self.api.trigger(f"{platform}_daily_maintenance") for platform in platforms}
        return {platform: (run_id, self._states(platform, run_id)) for platform, run_id in runs.items()}

    def _states(self, platform: str, run_id: str) -> dict[str, str]:
        dag_id = f"{platform}_daily_maintenance"
        states = {"": self.api.wait(dag_id, run_id)["state"]}
        for task in self.api.tasks(dag_id, run_id):
            name = task["task_id"] if task["map_index"] < 0 else f"{task['task_id']}[{task['rendered_map_index']}]"
            states[name] = task["state"]
        return states


SHORT_CLOCKS = {
    "idle_in_transaction: 5m": "idle_in_transaction: 1s",
    "long_query: 5m": "long_query: 1s",
    "slot_retained: 1GiB": "slot_retained: 16MiB",
    # Two dozen faults at once, each to be told by itself.
    "storm: 10": "storm: 100",
}


@pytest.fixture(scope="session")
def live() -> Iterator[Live]:
    home = Home(Path(tempfile.mkdtemp(prefix="up-", dir="/tmp")))
    platforms = home.directory("platforms")
    for file in (REPOSITORY / "include" / "platforms").glob("*.yaml"):
        text = file.read_text()
        for long, short in SHORT_CLOCKS.items():
            text = text.replace(long, short)
        (platforms / file.name).write_text(text)
    try:
        local, dags = "airflow.dag_processing.bundles.local.LocalDagBundle", home.directory("dags")
        bundles = [
            {"name": "dags-folder", "classpath": local, "kwargs": {}},
            {"name": "tests", "classpath": local, "kwargs": {"path": str(dags)}},
        ]
        home.remember(
            "airflow",
            environment={
                "UPKEEP_PLATFORMS": str(platforms),
                "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
            },
        )
        sandbox.up(home, scale=0.05)
        airflow.start(home, timeout_s=300)
        setup: dict[str, Any] = {"env": {**os.environ, **airflow.environment(home)}, "cwd": REPOSITORY, "timeout": 120}
        subprocess.run([sys.executable, "-m", "upkeep", "setup"], check=True, capture_output=True, **setup)
        yield Live(home, airflow.Api(home), Inbox(home), platforms, dags)
    finally:
        airflow.stop(home)
        sandbox.down(home)
        shutil.rmtree(home.path, ignore_errors=True)
