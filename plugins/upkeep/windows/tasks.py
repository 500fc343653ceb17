"""The part of a window in each task: it works, waits until another run is through, or has nothing left to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException

from upkeep.errors import LedgerError, SettingsError
from upkeep.windows import claims
from upkeep.windows.timetable import timetable

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.ledger import Ledger, Run
    from upkeep.operators import PlatformOperator

AGAIN_S = 15.0
"""So long a task that waits for another run leaves its worker."""

OVER = {"success", "failed", "skipped", "upstream_failed", "removed"}


@dataclass
class Work:
    """What a task does under its claim."""

    items: int = 0
    """So many things it chose for others to carry out."""


@contextmanager
def serve(operator: PlatformOperator, context: Context, run: Run) -> Iterator[Work]:
    """
    Do the block once for all windows that it covers; elsewhere than in a maintenance Dag, just do it.

    Without the ledger nobody knows of another run, and the work is done.

    :raises AirflowSkipException: another run's work covers this window.
    :raises AirflowRescheduleException: another run is doing it; asked again in a moment.
    """
    work, window = Work(), timetable(operator.subject).get(run.dag_id)
    if window is None:
        yield work
        return
    dry = operator.plays()
    with ExitStack() as stack:
        claim = None
        try:
            ledger = stack.enter_context(operator.ledger())
            claim = _Claim(operator, ledger, *_begun(stack, ledger, operator, context, run, window.length, dry))
        except (LedgerError, SettingsError) as away:
            operator.log.error("other runs of this window are not known: %s", away)
        try:
            yield work
        except AirflowSkipException as skipped:
            if claim:
                claim.end("skipped", work, str(skipped))
            raise
        except BaseException as failed:
            if claim:
                claim.end("failed", work, f"{type(failed).__name__}: {failed}")
            raise
        if claim:
            claim.end("done", work)


@dataclass(frozen=True)
class _Claim:
    operator: PlatformOperator
    ledger: Ledger
    number: int
    carriers: Sequence[str]

    def end(self, state: str, work: Work, reason: str = "") -> None:
        items = work.items if self.carriers else 0
        try:
            try:
                claims.end(self.ledger, self.number, state, items=items, reason=reason)
            except LedgerError:
                # It was away for a moment, in hours of work.
                with self.operator.ledger() as again:
                    claims.end(again, self.number, state, items=items, reason=reason)
        except LedgerError as lost:
            self.operator.log.error("this work is %s, and does not count for other windows: %s", state, lost)


def _begun(
    stack: ExitStack,
    ledger: Ledger,
    operator: PlatformOperator,
    context: Context,
    run: Run,
    length: timedelta,
    dry: bool,
) -> tuple[int, Sequence[str]]:
    """The claim's number, and the tasks that carry out what this one chooses."""
    due = due_at(context)
    if not operator.converging:
        return claims.begin(ledger, run, due, covers=False, alone=False), []
    claims.stay(ledger)
    if not stack.enter_context(ledger.exclusive(claims.lock_name(run))):
        _wait(operator, f"{', '.join(claims.working(ledger, run)) or 'another run'} is at it")
    for other in claims.working(ledger, run):
        # The lock is gone with the ledger's last restart, and the work goes on: Airflow hears its heart.
        if _states(context, run, other, [run.task_id]) & {"running", "restarting", "deferred"}:
            _wait(operator, f"{other} is at it")
    if due is not None and not dry and not _asked(context):
        _leave_if_covered(ledger, operator, context, run, due, length)
    carriers = _carriers(operator)
    return claims.begin(ledger, run, due, covers=not dry, alone=True, carried_by=carriers), carriers


def _leave_if_covered(
    ledger: Ledger, operator: PlatformOperator, context: Context, run: Run, due: datetime, length: timedelta
) -> None:
    for cover in claims.covers(ledger, run, due):
        if cover.complete:
            raise AirflowSkipException(claims.leave(ledger, run, due, cover))
        if datetime.now(UTC) - cover.began_at < length and _states(context, run, cover.run_id, cover.carried_by) - OVER:
            _wait(operator, f"{cover.run_id} is at it, {cover.carried} of {cover.needed} done")


def _states(context: Context, run: Run, run_id: str, tasks: Sequence[str]) -> set[str]:
    """In which states Airflow has these tasks of another run of this Dag; ``""`` for one that is yet to begin."""
    ti: Any = context["ti"]
    found = ti.get_task_states(dag_id=run.dag_id, task_ids=list(tasks), run_ids=[run_id]).get(run_id, {})
    return {str(getattr(state, "value", state) or "") for state in found.values()}


def _wait(operator: PlatformOperator, why: str) -> None:
    """Leave the worker and the pool to others meanwhile."""
    operator.log.info("waits: %s; asks again in %g s", why, AGAIN_S)
    raise AirflowRescheduleException(datetime.now(UTC) + timedelta(seconds=AGAIN_S))  # type: ignore[no-untyped-call]


def due_at(context: Context) -> datetime | None:
    """The schedule's tick that this run is for; a run by hand, or by an asset, has none."""
    dag_run: Any = context.get("dag_run")
    kind = getattr(dag_run, "run_type", None)
    if str(getattr(kind, "value", kind)) not in ("scheduled", "backfill"):
        return None
    due = getattr(dag_run, "logical_date", None)
    return due if isinstance(due, datetime) else None


def _asked(context: Context) -> bool:
    """Somebody wants something in particular of this run, so that no other's work will do."""
    return bool(getattr(context.get("dag_run"), "conf", None))


def _carriers(operator: PlatformOperator) -> Sequence[str]:
    """Tasks that are mapped over what this one returns."""
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    if not operator.has_dag():  # type: ignore[no-untyped-call]
        return []
    return sorted(task.task_id for task in operator.downstream_list if isinstance(task, MappedOperator))
