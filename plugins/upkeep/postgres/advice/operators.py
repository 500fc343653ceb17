"""The tasks `statistics` and `settings`: what the owner of a database should know."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from upkeep.errors import LedgerError, SettingsError
from upkeep.operators import PlatformOperator
from upkeep.postgres.operators import PostgresOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.findings import Outcome
    from upkeep.health.side_by_side import Probe
    from upkeep.ledger import Run
    from upkeep.postgres.advice.memory import Snapshot

DEADLINE_S = 120.0
"""For all reports together; a catalog of ten thousand tables takes seconds."""


class AdviceOperator(PostgresOperator):
    """
    Look at the database for its owner, all reports side by side; changes nothing.

    What the counters stood at is kept in the ledger, so that the next run of the same Dag tells what happened in
    between. Without the ledger it tells what happened since the statistics began.

    :param area: ``statistics`` (statements, indexes, tables, activity, numbers that run out) or ``settings``.
    """

    converging = True
    template_fields: Sequence[str] = (*PlatformOperator.template_fields, "area")

    def __init__(self, *, area: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.area = area

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        import psycopg

        from upkeep.connections import postgres_standbys
        from upkeep.health.side_by_side import look_side_by_side
        from upkeep.postgres.advice.reports import REPORTS
        from upkeep.postgres.session import connect

        if self.area not in REPORTS:
            raise SettingsError(f"no area {self.area!r} of advice", hint=f"one of {', '.join(REPORTS)}.")
        if reason := self.unusable(context, "postgres"):
            raise AirflowSkipException(f"the database cannot be used: {reason}")
        with contextlib.suppress(psycopg.OperationalError), connect(self.conninfo()):
            # A refused password ends here: the reports would each try it, and each twice.
            pass
        now = datetime.now(UTC)
        counted: dict[str, dict[str, Any]] = {}
        measured: dict[tuple[str, str], float] = {}
        look = {
            "conninfo": self.conninfo(),
            "section": self.section,
            "standbys": postgres_standbys(self.subject.conn("postgres")),
            "earlier": self._earlier(run),
            "now": now,
            "counted": counted,
            "measured": measured,
        }
        probes = [self._probe(name, partial(report, **look)) for name, report in REPORTS[self.area].items()]
        outcomes = look_side_by_side(probes, deadline_s=DEADLINE_S)
        self._keep(run, counted, measured, now)
        return self.conclude(run, outcomes)

    def _probe(self, name: str, look: Callable[[], list[Outcome]]) -> Probe:
        from upkeep.findings import Severity
        from upkeep.health.side_by_side import Probe

        return Probe(f"postgres_{name}", Severity.P2, look)

    def _earlier(self, run: Run) -> dict[str, Snapshot]:
        from upkeep.postgres.advice.memory import earlier

        try:
            with self.ledger() as ledger:
                return earlier(ledger, run)
        except (LedgerError, SettingsError) as away:
            self.log.warning("nothing to compare with: %s", away)
            return {}

    def _keep(
        self, run: Run, counted: dict[str, dict[str, Any]], measured: dict[tuple[str, str], float], now: datetime
    ) -> None:
        from upkeep.postgres.advice.memory import keep

        try:
            with self.ledger() as ledger:
                keep(ledger, run, counted, now)
                ledger.sample(run.platform, measured, now)
        except (LedgerError, SettingsError) as away:
            self.log.warning("the next run has nothing to compare with: %s", away)
