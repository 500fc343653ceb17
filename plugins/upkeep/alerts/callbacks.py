"""Callbacks for Dags: plain functions, a fresh client per event, each within Airflow's time limits.

Every Dag file imports this, so what only a callback needs is imported in it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from upkeep.errors import UpkeepError
from upkeep.findings import Finding, Outcome, Severity, judged, ok
from upkeep.platforms import platform

if TYPE_CHECKING:
    from upkeep.ledger import Run
    from upkeep.platforms import Platform

log = logging.getLogger(__name__)


def run_failed(context: Any, *, platform_name: str, patient: bool = False) -> None:
    """
    A run failed: tell it under (platform, ``run``, Dag), unless what its tasks found explains it.

    :param patient: the Dag runs every few minutes, and one failure alone calls nobody.

    On the Dag and not on its tasks: a task that was killed fires nothing (research/airflow.md T3).
    """
    from upkeep.connections import open_ledger

    subject = platform(platform_name)
    run = _run(context, platform_name)
    failed = _failed_tasks(context)
    try:
        with open_ledger() as ledger:
            explained = ledger.red_tasks(run.dag_id, run.run_id, subject.severity.failing)
    except UpkeepError:
        explained = set()
    unexplained = sorted(set(failed) - explained - {"watcher"})
    if failed and not unexplained:
        log.info("%s failed because of findings that are told already", run.dag_id)
        return
    finding = Finding(
        check="run",
        object=run.dag_id,
        severity=Severity.P1,
        summary=_summary(context, unexplained),
        hint="open the run, read the log of the first red task, mend the cause, then clear the red tasks.",
        facts={"tasks": unexplained, "reason": str(context.get("reason") or "")},
    )
    _record(subject.name, run, judged("run", Severity.P1, [finding], object=run.dag_id), patient)


def run_succeeded(context: Any, *, platform_name: str, patient: bool = False) -> None:
    """A run went well: what was told about the last one is over."""
    run = _run(context, platform_name)
    _record(platform_name, run, ok("run", Severity.P1, object=run.dag_id), patient)


def _record(platform_name: str, run: Run, outcome: Outcome, patient: bool) -> None:
    from upkeep.alerts.rules import patience_of
    from upkeep.alerts.tell import record
    from upkeep.ledger import AT_ONCE

    subject = platform(platform_name)
    try:
        record(subject, run, [outcome], patience=patience_of(subject) if patient else AT_ONCE)
        _tell_what_changed(subject, run)
    except UpkeepError as trouble:
        # A callback has nobody above it: what could be told has been told, the rest is in the spool.
        log.error("%s", trouble)


def _tell_what_changed(subject: Platform, run: Run) -> None:
    """A change event pages nobody; whoever is paged later sees what was done just before."""
    from upkeep.alerts.messages import change_event
    from upkeep.alerts.senders import send
    from upkeep.alerts.tell import BUDGET_S
    from upkeep.connections import open_ledger
    from upkeep.ledger.outbox import deliver, enqueue

    with open_ledger() as ledger:
        done = ledger.rows(
            "select capability, verb, count(*) as times, min(object) as example from actions"
            " where dag_id = %s and run_id = %s and state = 'done' group by 1, 2 order by 1, 2",
            [run.dag_id, run.run_id],
        )
        if done:
            message = change_event(subject, run, done)
            with ledger.transaction() as connection:
                enqueue(connection, message)
            deliver(ledger, send, keys=[message.key], budget_s=BUDGET_S)


def _run(context: Any, platform_name: str) -> Run:
    from upkeep.connections import run_url
    from upkeep.ledger import Run

    dag_id, run_id = context["dag"].dag_id, context["run_id"]
    ti = context.get("ti")
    return Run(
        platform=platform_name,
        dag_id=dag_id,
        run_id=run_id,
        task_id="(run)",
        log_url=getattr(ti, "log_url", None) or "",
        run_url=run_url(dag_id, run_id),
    )


def _failed_tasks(context: Any) -> list[str]:
    """Failed tasks by id, those of mapped tasks once."""
    ti = context.get("ti")
    try:
        states = ti.get_task_states(dag_id=context["dag"].dag_id, run_ids=[context["run_id"]])[context["run_id"]]
    except Exception as nobody:  # in dag.test() there is no supervisor to ask
        log.debug("task states are not to be had: %s", nobody)
        return [ti.task_id] if ti else []
    known = set(context["dag"].task_ids)
    failed = {name for name, state in states.items() if str(state) == "failed"}
    return sorted({name if name in known else name.rsplit("_", 1)[0] for name in failed})


def _summary(context: Any, tasks: list[str]) -> str:
    from upkeep.alerts.redact import redact

    error = context.get("exception")
    said = f": {type(error).__name__}: {' '.join(str(error).split())[:300]}" if error else ""
    what = ", ".join(tasks) or str(context.get("reason") or "no task says why")
    return redact(f"the run failed in {what}{said}")
