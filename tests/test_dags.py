"""Every Dag loads, keeps house style, and costs little to parse."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization

from bench.parse import IMPORT_ALL, environment
from sandbox.home import REPOSITORY
from upkeep.defaults import pools
from upkeep.platforms import platforms

BAG = DagBag(str(REPOSITORY / "dags"))
# A file's Dags come in no particular order, and parallel test processes must collect the same.
DAGS = sorted(BAG.dags.values(), key=lambda dag: dag.dag_id)
MAINTENANCE = [dag for dag in DAGS if dag.dag_id.endswith("_maintenance")]


def name(dag: Any) -> str:
    return str(dag.dag_id)


def test_every_file_loads() -> None:
    assert BAG.import_errors == {}
    assert {dag.dag_id for dag in MAINTENANCE} == {
        f"{platform.name}_{cadence}_maintenance"
        for platform in platforms()
        for cadence in ("daily", "weekly", "monthly", "quarterly")
    }
    assert "alert_delivery" in BAG.dags


@pytest.mark.parametrize("dag", DAGS, ids=name)
def test_every_dag_keeps_house_style(dag: Any) -> None:
    for bullet in ("**Runs**", "**Touches**", "**Re-run**", "**If it fails**"):
        assert bullet in dag.doc_md
    assert dag.tags
    assert dag.catchup is False
    assert dag.start_date is None, "unpausing would run the last tick at once"
    assert dag.dagrun_timeout is None, "it skips teardowns"
    for task in dag.tasks:
        assert task.execution_timeout, f"{task.task_id} could hang for ever"
        assert task.owner != "airflow"
        assert task.retries == 0, "retries belong to the deployment"


@pytest.mark.parametrize("dag", MAINTENANCE, ids=name)
def test_a_maintenance_dag_tells_of_its_end_and_cannot_turn_green_over_a_failure(dag: Any) -> None:
    assert dag.has_on_failure_callback
    assert dag.has_on_success_callback
    assert dag.max_active_runs == 1
    watcher = dag.get_task("watcher")
    assert watcher.trigger_rule == "one_failed"
    # Nothing but plain tasks may follow a set-up task; when it fails, what it is for is upstream-failed.
    seen = {task.task_id for task in dag.tasks if not task.is_setup}
    assert watcher.upstream_task_ids == seen - {"watcher"}
    assert dag.get_task("report").trigger_rule == "all_done"


def test_every_pool_that_a_task_names_is_made_by_setup() -> None:
    named = {task.pool for dag in BAG.dags.values() for task in dag.tasks} - {"default_pool"}
    assert named
    assert named <= set(pools(platforms()))


@pytest.mark.parametrize("dag", DAGS, ids=name)
def test_a_serialized_dag_holds_names_and_no_models(dag: Any) -> None:
    text = json.dumps(DagSerialization.serialize_dag(dag))
    assert len(text) < 40_000
    for trace in ("Level(", "Severities(", "Endpoint(", "api.studyspot.com", "pagerduty_conn_id"):
        assert trace not in text


def test_parsing_imports_no_provider_hook_and_nothing_heavy() -> None:
    command = [sys.executable, "-c", IMPORT_ALL, str(REPOSITORY / "dags")]
    env = environment(REPOSITORY / "include" / "platforms")
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_readme_names_every_dag() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    assert [dag_id for dag_id in BAG.dags if f"`{dag_id}`" not in readme] == []


AIRFLOW_SIDE = {
    "__main__.py", "connections.py", "defaults.py", "hooks.py", "operators.py", "setup.py", "watcher.py",
    # Asks which Dag is wanted, so that a task's process reads one platform file.
    "platforms/load.py",
    "alerts/operators.py", "alerts/tell.py", "alerts/callbacks.py", "alerts/senders.py", "alerts/by_hand.py",
    "backup/by_hand.py",
    "alerts/reconcile.py", "alerts/lifesign.py", "alerts/mail.py", "doctor/channels.py",
    "report/storage.py", "report/page.py", "report/operators.py", "page/app.py", "page/guard.py",
    "page/alertmanager.py",
    "health/operators.py", "logs/operators.py", "cleanup/operators.py", "postgres/operators.py",
    "postgres/advice/operators.py", "postgres/reindex/operators.py", "retention/operators.py",
    "incident/operators.py", "incident/deeds.py", "incident/update.py",
    "backup/operators.py", "backup/retention/operators.py", "backup/files/operators.py",
    "backup/configuration/operators.py", "backup/physical/operators.py", "backup/restore/operators.py",
    "backup/restore/deeds.py", "approval.py",
    "windows/tasks.py", "windows/watch.py", "capacity/operators.py",
    "drill/operators.py", "drill/breaking.py", "drill/reach.py", "trail/operators.py", "trail/by_hand.py",
    "security/operators.py",
}  # fmt: skip
PLUGIN = REPOSITORY / "plugins" / "upkeep"
PLAIN = [file for file in sorted(PLUGIN.rglob("*.py")) if str(file.relative_to(PLUGIN)) not in AIRFLOW_SIDE]


@pytest.mark.parametrize("file", PLAIN, ids=lambda file: str(file.relative_to(PLUGIN)))
def test_a_plain_module_knows_no_airflow_and_reads_no_environment(file: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module)
            if file.name != "settings.py":
                assert not (node.module == "os" and {"environ", "getenv"} & {alias.name for alias in node.names})
        elif isinstance(node, ast.Attribute) and file.name != "settings.py":
            assert not (
                isinstance(node.value, ast.Name) and node.value.id == "os" and node.attr in ("environ", "getenv")
            )
    airflow_side = {
        f"upkeep.{one.removesuffix('.py').replace('/', '.')}" for one in AIRFLOW_SIDE - {"platforms/load.py"}
    }
    assert not {module for module in imported if module.split(".")[0] == "airflow"}
    assert not imported & airflow_side
