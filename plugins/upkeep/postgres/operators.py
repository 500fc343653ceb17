"""The tasks `choose_tables` and `vacuum` of daily maintenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from airflow.sdk.exceptions import AirflowSkipException

from upkeep.errors import LedgerError, SettingsError
from upkeep.operators import PlatformOperator, truth

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.ledger import Run
    from upkeep.platforms.services import Postgres
    from upkeep.postgres.brake import Go
    from upkeep.postgres.needs import Need
    from upkeep.postgres.session import Connection


class PostgresOperator(PlatformOperator):
    """Base of the operators that work on a platform's database."""

    @property
    def section(self) -> Postgres:
        """:raises SettingsError: the platform has no database."""
        if self.subject.postgres is None:
            raise SettingsError(
                f"{self.subject.name} has no database",
                hint="add the section `postgres` to its platform file, or remove this task.",
            )
        return self.subject.postgres

    def conninfo(self) -> str:
        """As the maintenance role. :raises SettingsError: there is no such connection."""
        from upkeep.connections import postgres_conninfo

        return postgres_conninfo(self.subject.conn("postgres"))

    def ends(self, context: Context, window: str) -> datetime | None:
        """
        When the window of this run closes; None when Airflow does not know when the run began.

        :param window: ``daily``, ``weekly``, ``monthly`` or ``quarterly``.
        """
        began = getattr(context.get("dag_run"), "start_date", None)
        return began + getattr(self.subject.windows, window).length if began else None

    def brake(self, connection: Connection, ends: datetime | None) -> Go:
        """The platform's brake for one job, to be asked between its items; see ``upkeep.postgres.brake.hold``."""
        from upkeep.connections import hold_flag
        from upkeep.postgres.brake import hold

        conn_id = self.subject.conn("postgres")
        return hold(connection, self.subject.brake, ends=ends, flag=lambda: hold_flag(conn_id), disk=self._disk)

    def _disk(self) -> float | None:
        from upkeep.health.metrics import disk_in_use
        from upkeep.settings import settings

        metrics = self.subject.metrics
        return disk_in_use(metrics, connect_to=settings().connect_to) if metrics else None


class ChooseTablesOperator(PostgresOperator):
    """
    Choose the tables that need VACUUM or ANALYZE, store the plan, and return it for mapping: the neediest first.

    Skipped when this run's health task found the database unusable. Without the ledger there is no stored plan and
    nothing learned, and the tables are cared for all the same.

    :param dry_run: store the plan and return nothing to do (templated).
    """

    converging = True
    template_fields: Sequence[str] = (*PlatformOperator.template_fields, "dry_run")

    def __init__(self, *, dry_run: bool | str = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Hides BaseOperator.dry_run, which only prints templates for `airflow tasks test --dry-run`.
        self.dry_run = dry_run  # type: ignore[method-assign,assignment]

    def act(self, context: Context, run: Run) -> list[dict[str, Any]]:
        import psycopg

        from upkeep.findings import Severity, unknown
        from upkeep.postgres.needs import tables_in_need
        from upkeep.postgres.vacuum import gentle, grant
        from upkeep.postgres.wording import NEED, chosen

        dry_run = truth(self.dry_run)  # type: ignore[arg-type]
        if reason := self.unusable(context, "postgres"):
            raise AirflowSkipException(f"the database cannot be used: {reason}")
        settings = self.section.vacuum
        try:
            with gentle(self.conninfo(), settings) as connection:
                needs = tables_in_need(connection, settings)
                cure = grant(connection, [need for need in needs if not need.allowed])
        except psycopg.Error as trouble:
            self.conclude(run, [unknown(NEED, Severity.P2, " ".join(str(trouble).split()) or type(trouble).__name__)])
            raise
        may = [need for need in needs if need.allowed]
        plan, open_now = self._on_record(run, may, dry_run=dry_run)
        self.conclude(run, chosen(needs, cure, open_now), needs_ledger=False)
        for need, item in zip(may, plan, strict=True):
            said = f"{need.arm} {need.table}: score {need.score:.1f}, about {item['predicted_s']:g} s: {need.because}"
            self.log.info("%s%s", said, f"; but {need.in_vain}" if need.in_vain else "")
        return [] if dry_run else plan

    def _on_record(self, run: Run, needs: list[Need], *, dry_run: bool) -> tuple[list[dict[str, Any]], list[str]]:
        """The items of the stored plan, with the seconds that the ledger has taught; tables with an open finding."""
        from dataclasses import asdict

        from upkeep.postgres.rate import UNKNOWN_RATE, Rate, learned

        def items(rate: Rate) -> list[dict[str, Any]]:
            return [{**need.as_dict(), "rate": asdict(rate), "predicted_s": rate.seconds(need)} for need in needs]

        try:
            with self.ledger() as ledger:
                planned = items(learned(ledger, run.platform))
                stored = ledger.plan(run, "postgres", planned, dry_run=dry_run)
                open_now = ledger.rows(
                    "select object from findings"
                    " where platform = %s and check_name = 'postgres_vacuum' and state = 'open'",
                    [run.platform],
                )
        except (LedgerError, SettingsError) as away:
            self.log.error("without a stored plan, and by no experience: %s", away)
            return items(UNKNOWN_RATE), []
        return [{**item, "plan": str(stored.id)} for item in planned], [row["object"] for row in open_now]


class VacuumTableOperator(PostgresOperator):
    """
    VACUUM or ANALYZE one table, if it still needs it; mapped over what `choose_tables` returned.

    :param need: one of its items: ``{"table": "public.bookings", "schema": …, "name": …, "arm": …, "score": …}``.
    :param window: the platform's window whose end stops the work: ``daily``, ``weekly`` or ``monthly``.
    """

    template_fields: Sequence[str] = (*PlatformOperator.template_fields, "need")

    def __init__(self, *, need: Mapping[str, Any], window: str = "daily", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.need = need
        self.window = window

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        from upkeep.ledger import Plan
        from upkeep.postgres.rate import Rate
        from upkeep.postgres.vacuum import care
        from upkeep.postgres.wording import cared

        need = dict(self.need)
        plan = Plan(UUID(need["plan"]), (), "", False) if need.get("plan") else None
        facts = need.get("facts", {})
        before = {key: facts[key] for key in ("dead_rows", "transactions_unfrozen", "bytes") if key in facts}
        before |= {key: need[key] for key in ("arm", "score", "because", "predicted_s") if key in need}
        ends = self.ends(context, self.window)
        with self.action(run, "postgres", "vacuum", need["table"], plan=plan, before=before) as action:
            result = care(
                self.conninfo(),
                need["schema"],
                need["name"],
                self.section.vacuum,
                brake=lambda connection: self.brake(connection, ends),
                ends=ends,
                rate=Rate(**need.get("rate", {})),
            )
            action.after = {**result.get("after", {}), **{k: v for k, v in result.items() if k not in ("after",)}}
            if result["state"] != "done":
                action.skip(f"{result['state']}: {result['reason']}")
        self.conclude(run, [cared(need["table"], result)], needs_ledger=False)
        return {key: result[key] for key in ("state", "reason", "arm", "seconds") if key in result}


class FinishVacuumOperator(PostgresOperator):
    """Once after all tables: bring the database's own transaction ages up to date (PostgreSQL 16 and newer)."""

    def act(self, context: Context, run: Run) -> bool:
        from upkeep.postgres.vacuum import finish

        with self.action(run, "postgres", "finish_vacuum", "database", before={}) as action:
            done = finish(self.conninfo(), self.section.vacuum)
            if not done:
                action.skip("before PostgreSQL 16 each VACUUM has done it")
        return done
