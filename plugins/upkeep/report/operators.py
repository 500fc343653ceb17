"""The last task of a maintenance run: its report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink

from upkeep.operators import PlatformOperator

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context
    from airflow.sdk.types import TaskInstanceKey

    from upkeep.ledger import Run

SERVICES = ("http", "postgres", "redis", "kafka", "kubernetes", "metrics")
"""Sections whose servers the task `health` looks at; the trees of `hosts` are daily maintenance's."""


class ReportLink(BaseOperatorLink):
    """The button "Report" on the task's page."""

    name = "Report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        from upkeep.report.storage import page_url

        return page_url(getattr(operator, "platform", ""), ti_key.dag_id, ti_key.run_id)


class ReportOperator(PlatformOperator):
    """
    Write the run's report, link it, and say what it says.

    Runs whatever happened before it (``trigger_rule="all_done"`` in the Dag), and judges nobody: its own success
    only means that the report is there.

    :param platform: name of the platform (templated).
    :param sections: of the platform file that this Dag looks after; one that left no trace is shown as a gap. None
        for all of them.
    """

    operator_extra_links = (ReportLink(),)

    def __init__(self, *, sections: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sections = sections

    def act(self, context: Context, run: Run) -> dict[str, str]:
        from airflow.providers.common.compat.sdk import redact

        from upkeep.report.expected import SECTIONS
        from upkeep.report.gather import gather
        from upkeep.report.render import render_html, render_json, summary_text
        from upkeep.report.storage import announce, page_url, store

        sections = SECTIONS if self.sections is None else self.sections
        url = page_url(run.platform, run.dag_id, run.run_id)
        with self.ledger() as ledger:
            report = gather(
                ledger,
                self.subject,
                run.dag_id,
                run.run_id,
                states=_states(context),
                sections=sections,
            )
            where = store(run.platform, run.dag_id, run.run_id, render_html(report), render_json(report))
            announce(ledger, run, url)
        for line in summary_text(report, url).splitlines():
            self.log.info("%s", redact(line))
        self.log.info("stored at %s", where)
        return {"url": url, "verdict": report.verdict}


def _states(context: Context) -> dict[str, str]:
    """The states of the run's other tasks: ``{"health": "failed", "vacuum[3]": "success"}``."""
    ti: Any = context["ti"]
    known = set(context["dag"].task_ids)
    states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id]).get(ti.run_id, {})
    made = {}
    for name, state in states.items():
        # Airflow calls instance 3 of the mapped task `vacuum` "vacuum_3".
        task_id, _, index = name.rpartition("_")
        readable = f"{task_id}[{index}]" if name not in known and task_id in known else name
        made[readable] = str(getattr(state, "value", state) or "")
    made.pop(ti.task_id, None)
    return made
