"""Tasks of a maintenance window, and a worker that does one: ``python -m tests.windows_work DUE DIRECTORY``."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG

from upkeep.operators import PlatformOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.ledger import Run


class Task(PlatformOperator):
    """Does nothing, or fails."""

    template_fields: Sequence[str] = (*PlatformOperator.template_fields, "dry_run")

    def __init__(
        self, *, task_id: str, fails: BaseException | None = None, dry_run: bool | str = False, **kwargs: Any
    ) -> None:
        super().__init__(task_id=task_id, platform="studyspot", **kwargs)
        self.fails = fails
        self.dry_run = dry_run  # type: ignore[method-assign,assignment]

    def act(self, context: Context, run: Run) -> Any:
        if self.fails:
            raise self.fails


class Nightly(Task):
    """Converges."""

    converging = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(task_id="nightly", **kwargs)


class PerWindow(Task):
    """Is done for each window."""

    def __init__(self, *, task_id: str = "per_window", **kwargs: Any) -> None:
        super().__init__(task_id=task_id, **kwargs)


class Chosen(Task):
    """Chooses so many things for the mapped task `vacuum`."""

    converging = True

    def __init__(self, *, number: int, **kwargs: Any) -> None:
        super().__init__(task_id="choose_tables", **kwargs)
        self.number = number

    def act(self, context: Context, run: Run) -> list[int]:
        return list(range(self.number))


class PerMapped(PlatformOperator):
    """Mapped over what was chosen."""

    def __init__(self, *, need: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.need = need


def chosen(number: int) -> Task:
    """As in the Dag: with what is mapped over it."""
    with DAG("studyspot_daily_maintenance", schedule=None):
        choose = Chosen(number=number)
        PerMapped.partial(task_id="vacuum", platform="studyspot").expand(need=choose.output)
    return choose


class Long(Nightly):
    """Works until it may go."""

    def __init__(self, *, where: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.where = where

    def act(self, context: Context, run: Run) -> None:
        (self.where / "working").touch()
        while not (self.where / "go").exists():
            time.sleep(0.05)


def context(
    task: Task,
    due: datetime,
    *,
    kind: str = "backfill",
    run_id: str = "",
    dag_id: str = "studyspot_daily_maintenance",
    map_index: int = -1,
    conf: Mapping[str, Any] | None = None,
    states: Mapping[str, str | None] | None = None,
) -> Any:
    """As Airflow gives it to a task of the run for the window ``due``."""
    run_id = run_id or f"{kind}__{due:%Y-%m-%d}"
    ti = SimpleNamespace(
        dag_id=dag_id,
        run_id=run_id,
        task_id=task.task_id,
        map_index=map_index,
        try_number=1,
        log_url="",
        get_task_states=lambda *, dag_id, task_ids, run_ids: {one: dict(states or {}) for one in run_ids},
    )
    dag_run = SimpleNamespace(run_type=kind, logical_date=due, conf=dict(conf or {}))
    return {"ti": ti, "dag_run": dag_run, "run_id": run_id}


if __name__ == "__main__":
    task = Long(where=Path(sys.argv[2]))
    task.execute(context(task, datetime.fromisoformat(sys.argv[1])))
