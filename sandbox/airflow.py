"""Airflow itself, run against a sandbox: for the demo and the live tests."""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
from psycopg.conninfo import make_conninfo

from sandbox import processes
from sandbox.home import REPOSITORY, Home, SandboxError
from sandbox.servers import environment as servers_environment

FINISHED = ("success", "failed")
VERSION = metadata.version("apache-airflow")
COMMAND = Path(sys.executable).parent / "airflow"
COMPONENTS = {
    "api-server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}
# Asked politely the triggerer waits ten seconds for triggers that it does not have.
SIGNALS = {"airflow.triggerer": signal.SIGKILL}


def environment(home: Home, *, dags: Path | None = None) -> dict[str, str]:
    """
    Everything Airflow, its tasks and ``python -m upkeep`` need to see this sandbox.

    Tests add their own by ``home.remember("airflow", environment={...})`` before the start.
    """
    port = home.port("airflow", 8080)
    base = home.directory("airflow")
    url = f"http://127.0.0.1:{port}"
    facts = home.facts("postgres.control")
    if not facts:
        raise SandboxError("Airflow keeps its metadata in postgres.control; run `python -m sandbox up` first")
    return {
        # Connections come from a file: Airflow is started before all of them are known.
        **{key: value for key, value in servers_environment(home).items() if not key.startswith("AIRFLOW_CONN_")},
        "AIRFLOW__SECRETS__BACKEND": "sandbox.connections_file.ConnectionsFile",
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps({"path": str(home.path / "connections.json")}),
        **home.facts("airflow").get("environment", {}),
        "AIRFLOW_HOME": str(base),
        # Airflow's processes find each other's command by PATH.
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'plugins'}",
        "UPKEEP_AIRFLOW_URL": url,
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags or REPOSITORY / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__FERNET_KEY": _secret(home, "fernet_key"),
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,operator:op,viewer:viewer",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(base / "passwords.json"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": facts["airflow_dsn"],
        "AIRFLOW__API_AUTH__JWT_SECRET": _secret(home, "jwt_secret"),
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10",
        # A busy machine answers late; after the five seconds of the default a task fails before it has begun.
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        # Left at their defaults these make every task of a local demo a second slower.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
    }


def start(home: Home, *, dags: Path | None = None, timeout_s: float = 120) -> None:
    """
    Scheduler, Dag processor, API server and triggerer, ready to answer.

    Not by ``airflow standalone``: its scheduler and triggerer serve their logs on every address of the machine.
    """
    env = environment(home, dags=dags)
    (home.directory("airflow") / "passwords.json").write_text(
        json.dumps({"admin": "admin", "operator": "operator", "viewer": "viewer"})
    )
    home.connect(
        "upkeep_airflow_api",
        {"conn_type": "http", "host": env["UPKEEP_AIRFLOW_URL"], "login": "admin", "password": "admin"},
    )
    _migrate(home, env, timeout_s)
    for name, command in COMPONENTS.items():
        processes.start(home, f"airflow.{name}", [COMMAND, *command], env=env)
    processes.wait_until(
        lambda: _healthy(env["UPKEEP_AIRFLOW_URL"]),
        timeout_s,
        "Airflow to be healthy",
        home.logs / "airflow.scheduler.log",
    )


def _migrate(home: Home, env: dict[str, str], timeout_s: float) -> None:
    """Airflow's tables, which take it ten seconds to look at, only where they are not there yet."""
    with psycopg.connect(env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "")) as connection:
        (there,) = connection.execute("select to_regclass('alembic_version') is not null").fetchone() or (False,)
    if there and home.facts("airflow").get("migrated") == VERSION:
        return
    done = subprocess.run(
        [COMMAND, "db", "migrate"],
        env={**os.environ, **env},
        cwd=home.path,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode:
        raise SandboxError(f"airflow db migrate failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    home.remember("airflow", migrated=VERSION)


def ledger_conninfo(home: Home) -> str:
    """libpq connection string of this sandbox's ledger."""
    found = home.state()["connections"]["upkeep_ledger"]
    return make_conninfo(
        host=found["host"],
        port=found["port"],
        user=found["login"],
        password=found["password"],
        dbname=found["schema"],
    )


def stop(home: Home) -> None:
    names = [f"airflow.{name}" for name in COMPONENTS]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: processes.stop(home, name, sig=SIGNALS.get(name), timeout_s=20), names))


def _secret(home: Home, name: str) -> str:
    """A random key, the same for all of Airflow's processes and the next start."""
    known = home.facts("airflow").get(name)
    if not known:
        known = base64.urlsafe_b64encode(secrets.token_bytes(32 if name == "fernet_key" else 64)).decode()
        home.remember("airflow", **{name: known})
    return str(known)


def _healthy(url: str) -> bool:
    try:
        seen = httpx.get(f"{url}/api/v2/monitor/health", timeout=3).json()
    except (httpx.HTTPError, ValueError):
        return False
    return all(
        (seen.get(part) or {}).get("status") == "healthy" for part in ("metadatabase", "scheduler", "dag_processor")
    )


class Api:
    """Airflow's public REST API, as one user."""

    def __init__(self, home: Home, user: str = "admin") -> None:
        self.url = f"http://127.0.0.1:{home.port('airflow')}"
        answer = httpx.post(f"{self.url}/auth/token", json={"username": user, "password": user}, timeout=10)
        self.token = answer.raise_for_status().json()["access_token"]
        self.client = httpx.Client(
            base_url=f"{self.url}/api/v2", headers={"Authorization": f"Bearer {self.token}"}, timeout=120
        )

    def __call__(self, method: str, path: str, **arguments: Any) -> Any:
        answer = self.client.request(method, path, **arguments)
        if answer.is_error:
            raise SandboxError(f"Airflow answered {answer.status_code} to {method} {path}: {answer.text[:500]}")
        return answer.json() if answer.content else None

    def wait_for_dags(self, *dag_ids: str, timeout_s: float = 60) -> None:
        """:raises SandboxError: not there in time; the import errors are in the message."""

        def there() -> bool:
            return set(dag_ids) <= {dag["dag_id"] for dag in self("GET", "/dags?limit=500")["dags"]}

        try:
            processes.wait_until(there, timeout_s, f"the Dags {', '.join(dag_ids)}")
        except SandboxError as late:
            raise SandboxError(f"{late}; import errors: {self('GET', '/importErrors')}") from None

    def unpause(self, dag_id: str) -> None:
        self("PATCH", f"/dags/{dag_id}", json={"is_paused": False})

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run by hand; return its run id."""
        self.unpause(dag_id)
        made = self("POST", f"/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": conf or {}})
        return str(made["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        return dict(self("GET", f"/dags/{dag_id}/dagRuns/{quote(run_id)}"))

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        return list(self("GET", f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances?limit=500")["task_instances"])

    def wait(self, dag_id: str, run_id: str, timeout_s: float = 180) -> dict[str, Any]:
        """The run, once it is over. :raises SandboxError: it is not over in time."""
        deadline = time.monotonic() + timeout_s
        while (run := self.run(dag_id, run_id))["state"] not in FINISHED:
            if time.monotonic() > deadline:
                states = {task["task_id"]: task["state"] for task in self.tasks(dag_id, run_id)}
                raise SandboxError(f"{dag_id} {run_id} is {run['state']} after {timeout_s:g} s: {states}")
            time.sleep(1)
        return run

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        answer = self(
            "GET",
            f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/{task_id}/logs/{try_number}",
            params={"map_index": map_index, "full_content": True},
        )
        return json.dumps(answer)
