"""A platform for drills: its file, its connections, and tasks run as a worker would."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from upkeep.settings import settings

LEVEL = {"respond": "15m", "resolve": "2h"}
APPROVED = {"chosen_options": ["Approve"], "by": "the platform file"}
PERSON = {"chosen_options": ["Approve"], "responded_by_user": {"name": "mira"}}


def write(place: Path, monkeypatch: pytest.MonkeyPatch, scratch: Path, programs: Path, **sections: Any) -> None:
    """One platform file, and settings that lead to it; ``sections`` as in the file."""
    content = {
        "name": "studyspot",
        "title": "StudySpot",
        "severity": {
            "levels": {f"P{rank}": {"name": f"P{rank}", **LEVEL} for rank in range(4)}, "paging": "P0", "notify": "P0",
        },
        "recovery": {"rto": "2h", "rpo": "24h"},
        **sections,
    }  # fmt: skip
    (place / "platforms").mkdir(exist_ok=True)
    (place / "platforms" / "studyspot.yaml").write_text(yaml.safe_dump(content))
    for name, value in {
        "PLATFORMS": place / "platforms", "SPOOL": place / "spool", "SCRATCH": scratch,
        "REPORTS": f"file://{place}/reports", "POSTGRES_PROGRAMS": json.dumps([str(programs)]),
    }.items():  # fmt: skip
        monkeypatch.setenv(f"UPKEEP_{name}", str(value))
    settings.cache_clear()


def connect(monkeypatch: pytest.MonkeyPatch, **connections: Any) -> None:
    """``connect(monkeypatch, POSTGRES={…})``: Airflow connections of the platform."""
    for name, connection in connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_STUDYSPOT_{name}", json.dumps(connection))


def execute(task: Any, *, answer: Any = APPROVED, run_id: str = "r", user: str = "jo") -> Any:
    """The task, as a worker would run it."""
    ti = SimpleNamespace(
        dag_id="studyspot_quarterly_maintenance", run_id=run_id, task_id=task.task_id, map_index=-1, try_number=1,
        max_tries=0, log_url="", xcom_pull=lambda task_ids, **how: answer if task_ids == "ask" else None,
    )  # fmt: skip
    dag_run = SimpleNamespace(triggering_user_name=user, conf=None, run_type="manual", start_date=None)
    return task.execute({"ti": ti, "run_id": run_id, "dag_run": dag_run})


def page(place: Path, task_id: str, run_id: str = "r") -> str:
    """The drill's page as it was kept."""
    (found,) = (place / "reports").rglob(f"drill-{task_id}.html")
    return found.read_text()
