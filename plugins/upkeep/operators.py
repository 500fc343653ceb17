"""What all of Upkeep's operators share: their platform, the ledger, and how outcomes end a task.

Dag files import operators, and every task parses its Dag file: whatever is not needed to define a Dag is imported
where it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from upkeep.errors import CredentialsError, LedgerError, SettingsError
from upkeep.findings import Outcome, worst
from upkeep.platforms import Platform, platform

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.ledger import Action, Ledger, Patience, Plan, Run


class PlatformOperator(BaseOperator):
    """
    Base of the operators that look after one platform; subclasses implement ``act``.

    :param platform: name of the platform (templated, so that a form may choose it).
    """

    template_fields: Sequence[str] = ("platform",)

    converging: bool = False
    """Whether its work, done once, is done for every window that was due before it began: see `upkeep.windows`."""

    def __init__(self, *, platform: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.platform = platform

    @cached_property
    def subject(self) -> Platform:
        """The platform's model, read here and not at parse time: it never enters the serialized Dag."""
        return platform(self.platform)

    def execute(self, context: Context) -> Any:
        from upkeep.connections import run_of
        from upkeep.windows.tasks import serve

        try:
            run = run_of(context, self.subject.name)
            with serve(self, context, run) as work:
                result = self.act(context, run)
                work.items = len(result) if isinstance(result, list) else 0
                return result
        except (SettingsError, CredentialsError, LedgerError) as wrong:
            # Neither a wrong setting nor a refused password gets better by trying again.
            raise AirflowFailException(str(wrong)) from wrong

    def act(self, context: Context, run: Run) -> Any:
        """The one thing this operator does."""
        raise AirflowFailException(f"{type(self).__name__} does not say what to do; implement `act`")

    def plays(self) -> bool:
        """Whether this is a dry run. :raises SettingsError: neither yes nor no."""
        return "dry_run" in self.template_fields and truth(self.dry_run)  # type: ignore[arg-type]

    def ledger(self) -> Ledger:
        """:raises LedgerError: it cannot be reached."""
        from upkeep.connections import open_ledger

        return open_ledger()

    @contextmanager
    def action(
        self, run: Run, capability: str, verb: str, object: str, *, before: Mapping[str, Any], plan: Plan | None = None
    ) -> Iterator[Action]:
        """
        As ``Ledger.action``, for work that needs no history: without the ledger it is done off the record.

        What it came to must then also be told by ``conclude``, whose outcomes wait in the spool.
        """
        from upkeep.ledger import Action

        finished = False
        try:
            with ExitStack() as record:
                try:
                    ledger = record.enter_context(self.ledger())
                    doing = record.enter_context(ledger.action(run, capability, verb, object, plan=plan, before=before))
                except (LedgerError, SettingsError) as away:
                    self.log.error("%s %s goes on without being recorded: %s", verb, object, away)
                    doing = Action(0)
                yield doing
                finished = True
        except LedgerError as lost:
            if not finished:
                raise
            self.log.error("%s %s is done, and its record is not: %s", verb, object, lost)

    def unusable(self, context: Context, service: str) -> str:
        """
        Why a service cannot be used, as this run's task ``health`` saw it; empty when it can, or nobody looked.

        ``health`` pushes the XCom ``unusable``: ``{"postgres": "postgres_connect: connection refused"}``.
        """
        said = context["ti"].xcom_pull(task_ids="health", key="unusable") or {}
        if isinstance(said, Mapping):
            return str(said.get(service) or "")
        return f"{service} is not usable" if service in said else ""

    def conclude(
        self, run: Run, outcomes: Sequence[Outcome], *, needs_ledger: bool = True, patience: Patience | None = None
    ) -> dict[str, Any]:
        """
        Put the outcomes on record, tell who must be told, and fail the task if they are bad enough.

        :param needs_ledger: False for work that goes on without the ledger: the outcomes then wait in the spool, who
            is paged has been paged, and the red health task says why.
        :param patience: how often looks must agree before anybody is told; None: this look is believed.
        :returns: counts for XCom.
        :raises AirflowFailException: a finding or an unknown at or above the platform's failing severity.
        :raises LedgerError: the ledger is down, and ``needs_ledger``.
        """
        from upkeep.alerts.tell import as_the_platform_says, record
        from upkeep.ledger import AT_ONCE

        outcomes = [as_the_platform_says(self.subject, outcome) for outcome in outcomes]
        try:
            record(self.subject, run, outcomes, patience=patience or AT_ONCE)
        except (LedgerError, SettingsError) as away:
            if needs_ledger:
                raise
            self.log.error("not recorded, and kept in the spool: %s", away)
        bad = [o for o in outcomes if o.worst and o.worst.at_least(self.subject.severity.failing)]
        for outcome in outcomes:
            for line in lines(outcome):
                self.log.info("%s", line)
        if bad:
            told = "\n".join(line for outcome in bad for line in lines(outcome))
            raise AirflowFailException(f"{worst(outcomes)}: {len(bad)} of {len(outcomes)} checks are not ok\n{told}")
        counts = {state: sum(o.state == state for o in outcomes) for state in ("ok", "finding", "unknown")}
        self.log.info("%(ok)d ok, %(finding)d with findings, %(unknown)d unknown", counts)
        return counts


def truth(value: bool | str) -> bool:
    """
    A flag as a form or a template gives it.

    :raises SettingsError: it is neither true nor false; guessing could delete.
    """
    words = {"true": True, "false": False}
    if isinstance(value, bool):
        return value
    if (word := str(value).strip().lower()) in words:
        return words[word]
    raise SettingsError(f"dry_run is true or false, got {value!r}", hint="correct the value given to this run.")


def lines(outcome: Outcome) -> list[str]:
    """One line per finding, or one for the outcome: ``P0 http api: answered 500``."""
    name = f"{outcome.check} {outcome.object}".strip()
    if outcome.state == "ok":
        return [f"ok {name}"]
    if outcome.state == "unknown":
        because = f" (because of {outcome.explained_by})" if outcome.explained_by else ""
        return [f"{outcome.severity} {name}: could not look: {outcome.reason}{because}"]
    return [
        f"{finding.severity} {f'{finding.check} {finding.object}'.strip()}: {finding.summary}. {finding.hint}"
        for finding in sorted(outcome.findings, key=lambda f: f.severity.rank)
    ]
