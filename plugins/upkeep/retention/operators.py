"""The task `retention` of monthly maintenance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from upkeep.operators import PlatformOperator, truth
from upkeep.postgres.operators import PostgresOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.ledger import Run
    from upkeep.retention.archive import Archive


class RetentionOperator(PostgresOperator):
    """
    Delete the rows that the platform's rules have expired; the plan is stored first.

    One task for all tables: children go before their parents, an order that mapped tasks do not keep, and a table
    that is refused or beyond the standing yes must not stop the others.

    :param dry_run: store the plan and delete nothing (templated). The rules of the platform file are the standing
        yes, so scheduled runs do delete; beyond its cap nothing is deleted and a person is asked.
    :param approve_plan: digest of the stored plan to which a person says yes; empty for none (templated).
    :param window: the platform's window whose end stops the work.
    """

    converging = True
    template_fields: Sequence[str] = (*PlatformOperator.template_fields, "dry_run", "approve_plan")

    def __init__(
        self, *, dry_run: bool | str = False, approve_plan: str = "", window: str = "monthly", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        # Hides BaseOperator.dry_run, which only prints templates for `airflow tasks test --dry-run`.
        self.dry_run = dry_run  # type: ignore[method-assign,assignment]
        self.approve_plan = approve_plan
        self.window = window

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        import psycopg

        from upkeep.connections import postgres_conninfo
        from upkeep.findings import unknown
        from upkeep.retention.job import Job, carry_out
        from upkeep.retention.wording import PLAN, SEVERITY

        dry_run = truth(self.dry_run)  # type: ignore[arg-type]
        if reason := self.unusable(context, "postgres"):
            raise AirflowSkipException(f"the database cannot be used: {reason}")
        if not any(table.retention for table in self.section.tables):
            raise AirflowSkipException("no table of the platform file has a retention rule")
        ends = self.ends(context, self.window)
        with self.ledger() as ledger:
            job = Job(
                run=run,
                ledger=ledger,
                section=self.section,
                maintenance=self.conninfo(),
                owner=postgres_conninfo(self.subject.conn("postgres_owner")),
                archive=self.archive(),
                brake=lambda connection: self.brake(connection, ends),
                ends=ends,
            )
            try:
                outcomes = carry_out(job, dry_run=dry_run, approve=self.approve_plan.strip())
            except psycopg.Error as trouble:
                said = " ".join(str(trouble).split()) or type(trouble).__name__
                self.conclude(run, [unknown(PLAN, SEVERITY, said)])
                raise
        return self.conclude(run, outcomes)

    def archive(self) -> Archive | None:
        """Where rows are archived: ``postgres.deletion.archive_bucket``, or the bucket of backups."""
        from upkeep.connections import connection
        from upkeep.retention.archive import Archive

        backup = self.subject.backup
        bucket = self.section.deletion.archive_bucket or (backup.bucket if backup else None)
        if bucket is None:
            return None
        conn_id = self.subject.conn("backup_s3")
        connection(conn_id)
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        return Archive(S3Hook(conn_id).get_conn(), bucket)
