"""``python -m upkeep setup`` where the FAB auth manager keeps Airflow's roles."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.home import REPOSITORY

FAB = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"


@pytest.mark.soak
def test_setup_makes_the_two_roles_once_and_gives_them_what_they_need(tmp_path: Path, ledger_conninfo: str) -> None:
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__AUTH_MANAGER": FAB,
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db?timeout=30",
    }

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            env=environment,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    run("airflow", "db", "migrate")
    for _ in range(2):
        assert "roles: Upkeep Viewer, Upkeep Operator" in run("upkeep", "setup")
    rights = run("airflow", "roles", "list", "-p", "-o", "plain")
    assert "Upkeep Viewer" in rights
    operator = {line.split(maxsplit=2)[2] for line in rights.splitlines() if line.startswith("Upkeep Operator")}
    viewer = {line.split(maxsplit=2)[2] for line in rights.splitlines() if line.startswith("Upkeep Viewer")}
    named = {" ".join(line.split()) for line in operator}
    assert "DAG Runs can_create,can_read" in named
    assert "HITL Detail can_edit,can_read" in named
    assert not [line for line in viewer if "can_create" in line or "can_edit" in line]
