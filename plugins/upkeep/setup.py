"""``python -m upkeep setup``: what must exist before the first run. Idempotent."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from upkeep.connections import LEDGER, postgres_conninfo
from upkeep.defaults import pools
from upkeep.errors import UpkeepError
from upkeep.ledger.migrate import migrate
from upkeep.platforms import platforms

ROLES = {
    "Upkeep Viewer": "sees every Dag, run, log and report",
    "Upkeep Operator": "also triggers, clears and backfills, and answers approvals",
}
"""Airflow roles, made where the FAB auth manager keeps roles; other auth managers bring their own."""

SEEN = (
    "Website",
    "DAGs",
    "DAG Runs",
    "Task Instances",
    "Task Logs",
    "Backfills",
    "ImportError",
    "HITL Detail",
    "Plugins",
    "XComs",
)
"""What both roles may look at, by FAB's names of resources."""


class SetupError(UpkeepError):
    """A step of the setup did not work."""


def setup(say: Callable[[str], None] = print) -> None:
    """
    The ledger's tables, the pools that Dags name, and Airflow's roles.

    :raises LedgerError: the ledger cannot be reached. :raises SetupError: Airflow refused.
    """
    say(f"ledger: at revision {migrate(postgres_conninfo(LEDGER))}")
    wanted = pools(platforms())
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        json.dump(wanted, file)
    try:
        _airflow("pools", "import", file.name)
    finally:
        Path(file.name).unlink()
    say(f"pools: {', '.join(wanted) or 'none needed'}")
    say(f"roles: {_roles()}")


def _roles() -> str:
    from airflow.configuration import conf

    manager = conf.get("core", "auth_manager")
    if not manager.endswith("FabAuthManager"):
        return f"left to {manager.rsplit('.', 1)[-1]}"
    _airflow("roles", "create", *ROLES)
    _airflow("roles", "add-perms", *ROLES, "-a", "can_read", "-r", *SEEN)
    _airflow("roles", "add-perms", "Upkeep Operator", "-a", "can_edit", "-r", "DAGs", "Task Instances", "HITL Detail")
    _airflow("roles", "add-perms", "Upkeep Operator", "-a", "can_create", "-r", "DAG Runs", "Backfills")
    return ", ".join(ROLES)


def _airflow(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "airflow", *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise SetupError(
            f"`airflow {' '.join(arguments[:2])}` failed: {' '.join(last)}",
            hint="run it where Airflow's own configuration and database are at hand; `airflow db check` must pass.",
        )
