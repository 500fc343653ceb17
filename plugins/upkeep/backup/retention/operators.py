"""The tasks `retention` of the nightly backup, and `backup_freshness` of it and of daily maintenance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from upkeep.backup.operators import BackupBase
from upkeep.operators import PlatformOperator, truth

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.backup.manifest import Kind
    from upkeep.backup.retention.known import Place
    from upkeep.findings import Outcome
    from upkeep.ledger import Run
    from upkeep.platforms.backup import Backup


class BackupRetentionOperator(BackupBase):
    """
    Mark the backups that are past their time, and delete those that were marked long enough ago.

    Copies of files are not touched: they are the only other copy, and nothing of them is ever replaced.

    :param dry_run: store the plan, and neither mark nor delete (templated). The rules of the platform file are the
        standing yes; beyond its cap a person is asked.
    :param approve_plan: digest of the stored plan to which a person says yes; empty for none (templated).
    """

    converging = True
    template_fields: Sequence[str] = (*PlatformOperator.template_fields, "dry_run", "approve_plan")

    def __init__(self, *, dry_run: bool | str = False, approve_plan: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Hides BaseOperator.dry_run, which only prints templates for `airflow tasks test --dry-run`.
        self.dry_run = dry_run  # type: ignore[method-assign,assignment]
        self.approve_plan = approve_plan

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        from upkeep.backup.retention.choose import Rules
        from upkeep.backup.retention.wording import RETENTION, SEVERITY, told
        from upkeep.backup.retention.work import Job, carry_out, plan_of
        from upkeep.backup.store import StoreError
        from upkeep.findings import unknown

        section, dry_run = self.rules, truth(self.dry_run)  # type: ignore[arg-type]
        outcomes: list[Outcome] = []
        with self.ledger() as ledger:
            approved = plan_of(ledger, run.platform, self.approve_plan.strip())
            for place in places(self, section):
                if place.kind == "files":
                    continue
                part = _part(section, place.kind)
                rules = Rules.of(section, part.keep, generations=place.kind == "database")
                job = Job(run=run, ledger=ledger, place=place, rules=rules, abandoned_after=section.unfinished)
                try:
                    outcomes += told(job, carry_out(job, dry_run=dry_run, approved=approved), section.severity)
                except StoreError as away:
                    outcomes.append(unknown(RETENTION, SEVERITY, away.message, object=place.kind))
        return self.conclude(run, outcomes)


class BackupFreshnessOperator(BackupBase):
    """
    Look whether the backups are as young, as large and as proved as they should be, and could be made tonight.

    A look of its own, apart from making them: a backup that is not made at all says nothing.
    """

    converging = True

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        from upkeep.backup import freshness

        with self.ledger() as ledger:
            outcomes = freshness.look_at(ledger, places(self, self.rules), self.rules)
        if self.rules.cluster is not None:
            outcomes.append(self._log())
        if self.rules.database is not None or self.rules.cluster is not None:
            outcomes += self._server(context)
        return self.conclude(run, outcomes)

    def _log(self) -> Outcome:
        """How far the archive of the log reaches, and whether it is whole."""
        from upkeep.backup import freshness
        from upkeep.backup.physical import archive, reaching
        from upkeep.backup.store import StoreError
        from upkeep.findings import unknown

        severity = self.rules.severity
        try:
            found = archive.look(self.store(), self.cluster.prefix, self.subject.name)
        except StoreError as away:
            return unknown(freshness.WAL, severity, away.message, object="cluster", explained_by=freshness.AGE)
        recovery = self.subject.recovery
        return reaching.judge(
            found, severity, most=recovery.rpo if recovery else reaching.ROUNDS * self.cluster.log_every
        )

    def _server(self, context: Context) -> list[Outcome]:
        """What only the database can tell: its version, and how far an archive of its log is behind."""
        import psycopg

        from upkeep.backup import freshness, programs
        from upkeep.findings import unknown
        from upkeep.postgres.session import connect
        from upkeep.settings import settings

        severity = self.rules.severity
        if reason := self.unusable(context, "postgres"):
            return [unknown(freshness.CLIENT, severity, reason, explained_by="postgres_connect")]
        try:
            with connect(self.conninfo()) as connection:
                installed = programs.installed(settings().postgres_programs)
                outcomes = [freshness.client(connection.info.server_version, installed, severity)]
                recovery, mode = self.subject.recovery, connection.execute("show archive_mode").fetchone()
                # Somebody else's archive, by archive_command, on which the promise rests.
                if recovery and self.rules.cluster is None and mode and mode["archive_mode"] != "off":
                    outcomes.append(freshness.wal(connection, severity, recovery.rpo))
                return outcomes
        except psycopg.Error as trouble:
            said = " ".join(str(trouble).split()) or type(trouble).__name__
            return [unknown(freshness.CLIENT, severity, said)]


def places(operator: BackupBase, section: Backup) -> list[Place]:
    """Where the platform's backups lie, kind by kind. :raises SettingsError: there is no connection to the bucket."""
    from upkeep.backup.physical.source import BASES
    from upkeep.backup.retention.known import Place

    store = operator.store()
    kinds: tuple[Kind, ...] = ("database", "cluster", "files", "configuration")
    below: dict[Kind, str] = {"cluster": BASES}
    return [
        Place(operator.subject.name, kind, store, part.prefix + below.get(kind, ""))
        for kind in kinds
        if (part := _part(section, kind)) is not None
    ]


def _part(section: Backup, kind: Kind) -> Any:
    """Of the platform file; None where it has none of this kind."""
    return getattr(section, kind)
