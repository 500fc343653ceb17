"""Real servers for the tests. Each session has sandboxes of its own and stops every process it started."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

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
from sandbox.home import Home
from upkeep.ledger import Ledger, Run
from upkeep.ledger.migrate import migrate


def pytest_sessionfinish() -> None:
    shutil.rmtree(AIRFLOW_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def control() -> Iterator[Home]:
    """A sandbox with the control cluster: an empty Postgres 17 for ledgers."""
    # Unix sockets have room for 107 characters, so not below pytest's own directories.
    home = Home(Path(tempfile.mkdtemp(prefix="up-", dir="/tmp")))
    try:
        sandbox.up(home, only=["postgres.control"], scale=0.02)
        yield home
    finally:
        sandbox.down(home)
        shutil.rmtree(home.path, ignore_errors=True)


@pytest.fixture
def ledger_conninfo(control: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh, migrated ledger behind the connection ``upkeep_ledger``."""
    connection = control.state()["connections"]["upkeep_ledger"]
    name = f"ledger_{uuid.uuid4().hex[:8]}"
    owner = psycopg.conninfo.make_conninfo(
        host=connection["host"],
        port=connection["port"],
        user=connection["login"],
        password=connection["password"],
    )
    superuser = control.facts("postgres.control")["superuser_dsn"]
    with psycopg.connect(superuser, autocommit=True) as server:
        server.execute(f"create database {name} owner {connection['login']}")
    conninfo = psycopg.conninfo.make_conninfo(owner, dbname=name)
    migrate(conninfo)
    monkeypatch.setenv("AIRFLOW_CONN_UPKEEP_LEDGER", json.dumps({**connection, "schema": name}))
    yield conninfo
    with psycopg.connect(superuser, autocommit=True) as server:
        server.execute(f"drop database {name} with (force)")


@pytest.fixture
def ledger(ledger_conninfo: str) -> Iterator[Ledger]:
    with Ledger(ledger_conninfo) as opened:
        yield opened


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
