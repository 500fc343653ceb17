"""The tasks that back up a whole cluster, keep its log, and prove both."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from upkeep.backup.operators import MADE, BackupBase, VerifyBackupOperator
from upkeep.errors import LedgerError, SettingsError, UpkeepError
from upkeep.operators import PlatformOperator, truth

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context

    from upkeep.backup.manifest import Manifest
    from upkeep.backup.physical.source import Job
    from upkeep.backup.programs import Programs
    from upkeep.backup.verification import Subject, Verdict
    from upkeep.ledger import Ledger, Run

LOG = "backup_log"
"""Check: whether the last round fetched the log, and all of it."""


class ClusterBase(BackupBase):
    """What both makers share."""

    def job(self, run: Run) -> Job:
        from upkeep.backup.physical.source import Job

        return Job(
            platform=run.platform,
            conninfo=self.conninfo(),
            store=self.store(),
            prefix=self.cluster.prefix,
            key=self.key_to_write(),
            slot=self.cluster.slot,
            dag_id=run.dag_id,
            run_id=run.run_id,
        )

    @staticmethod
    def programs() -> Callable[[int], Programs]:
        from upkeep.backup import programs
        from upkeep.settings import settings

        return lambda version: programs.client(version, settings().postgres_programs)

    def alone(self, stack: ExitStack, run: Run, part: str, what: str) -> bool:
        """Whether nobody else is at it: then all that is unfinished is a dead worker's."""
        try:
            ledger: Ledger = stack.enter_context(self.ledger())
            alone = stack.enter_context(ledger.exclusive(f"backup/{run.platform}/{part}"))
        except (LedgerError, SettingsError) as away:
            self.log.error("made without being recorded: %s", away)
            return False
        if not alone:
            raise AirflowSkipException(f"another run {what} right now")
        return True

    def sweep(self, job: Job, below: str, *, alone: bool) -> None:
        from upkeep.backup import sweeping

        for gone in sweeping.uploads(
            job.store, job.prefix + below, older_than=None if alone else self.rules.unfinished
        ):
            self.log.info("what a dead worker left of %s is forgotten", gone)


class BackupClusterOperator(ClusterBase):
    """
    Make a base backup of the whole cluster: all of it, or what changed since the last where ``full_every`` allows.

    A try that fails leaves nothing that counts; what a killed one left is swept by the next.
    """

    converging = True

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        import psycopg

        from upkeep.backup import records
        from upkeep.backup.physical import base, source
        from upkeep.findings import ok

        job = self.job(run)
        with ExitStack() as stack:
            alone = self.alone(stack, run, "cluster", "makes a base backup of this cluster")
            try:
                self.sweep(job, source.BASES, alone=alone)
                since = self._since(job)
                before = {"prefix": job.prefix, "since": since.id if since else None}
                with self.action(run, "backup", "basebackup", "cluster", before=before) as action:
                    made = base.take(job, self.programs(), checkpoint=self.cluster.checkpoint, since=since)
                    backup = made.manifest
                    seconds = (backup.finished - backup.started).total_seconds()
                    facts = {"id": backup.id, "bytes": backup.size, "seconds": round(seconds, 1)}
                    action.after = facts
            except (UpkeepError, psycopg.Error) as failed:
                self.give_up(context, run, MADE, "cluster", failed, hint="mend the server, then clear this task.")
                raise
        try:
            with self.ledger() as ledger:
                where = job.prefix + source.BASES
                records.remember(ledger, job.store.bucket, where, backup, sha256=made.manifest_sha256)
        except (LedgerError, SettingsError) as away:
            self.log.error("base backup %s counts, and is not on record: %s", backup.id, away)
        self.log.info(
            "base backup %s%s: %.1f MB in %.1f s, at %s",
            backup.id, f" since {since.id}" if since else "", backup.size / 1e6, seconds,
            job.store.url(job.prefix + source.BASES + backup.id),
        )  # fmt: skip
        self.conclude(run, [ok(MADE, self.rules.severity, object="cluster", **facts)], needs_ledger=False)
        for asset in self.outlets:
            context["outlet_events"][asset].extra = {"id": backup.id}
        return facts

    def _since(self, job: Job) -> Manifest | None:
        """What this one is built on; None for a full one."""
        from datetime import UTC, datetime

        from upkeep.backup.physical import archive, base, source
        from upkeep.postgres.session import connect

        every = self.cluster.full_every
        if every is None:
            return None
        with connect(job.conninfo) as connection:
            found = source.look(connection)
        bases = [
            one
            for one in archive.look(job.store, job.prefix, job.platform).bases
            if archive.cluster(one).system_identifier == found.system_identifier
        ]
        if base.full_is_due(bases, every.total_seconds(), datetime.now(UTC)):
            return None
        return bases[-1]


class ArchiveLogOperator(ClusterBase):
    """Fetch what is new of the cluster's log, stretch by stretch; the server lets go of what has arrived."""

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        import psycopg

        from upkeep.backup.physical import source, wal
        from upkeep.findings import Finding, judged
        from upkeep.settings import settings

        job = self.job(run)
        with ExitStack() as stack:
            alone = self.alone(stack, run, "log", "fetches the log of this cluster")
            try:
                self.sweep(job, source.LOG, alone=alone)
                with self.action(run, "backup", "fetch", "cluster/log", before={"slot": job.slot}) as action:
                    done = wal.archive(job, self.programs(), settings().scratch)
                    facts = {"stretches": len(done.stretches), "bytes": done.bytes, "end": done.end}
                    action.after = facts
            except (UpkeepError, psycopg.Error) as failed:
                self.give_up(context, run, LOG, "log", failed, hint="mend the server; the next round goes on.")
                raise
        self.log.info("the archive of the log reaches to %(end)s: %(stretches)d new stretches, %(bytes)d bytes", facts)
        lost = [
            Finding(
                check=LOG,
                object="log",
                severity=self.rules.severity,
                summary=done.lost,
                hint="make a base backup now (task `cluster` of the Dag `*_backup`).",
            )
        ]
        outcome = judged(LOG, self.rules.severity, lost if done.lost else [], object="log", **facts)
        self.conclude(run, [outcome], needs_ledger=False)
        return facts


class VerifyClusterOperator(VerifyBackupOperator):
    """
    Verify one base backup and the log since.

    :param tier: ``bytes`` reads all of it back; ``content`` recovers the cluster to its newest point, in isolation,
        and looks at every heap and index.
    """

    @property
    def prefix(self) -> str:
        from upkeep.backup.physical.source import BASES

        return self.cluster.prefix + BASES

    def _verify(self, ledger: Ledger, run: Run, subject: Subject) -> Verdict:
        import socket

        from upkeep.backup import verdicts
        from upkeep.backup.physical import proving
        from upkeep.settings import settings

        if self.tier == "bytes":
            return proving.read_back(subject)
        host = socket.gethostname()
        return proving.restore(
            subject,
            settings().scratch,
            self.section.queries,
            made=lambda path: verdicts.scratch_made(ledger, run, path, host, subject.id),
            removed=lambda path: verdicts.scratch_removed(ledger, path, host),
        )

    def _subject(self, ledger: Ledger, store: Any, id: str) -> Subject:
        from dataclasses import replace

        return replace(super()._subject(ledger, store, id), prefix=self.cluster.prefix, object="cluster")


class LogRetentionOperator(BackupBase):
    """
    Delete the log that no base backup needs any more.

    :param dry_run: store the plan alone (templated). That base backups may go is their own retention's rule.
    """

    converging = True
    template_fields: Sequence[str] = (*PlatformOperator.template_fields, "dry_run")

    def __init__(self, *, dry_run: bool | str = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Hides BaseOperator.dry_run, which only prints templates for `airflow tasks test --dry-run`.
        self.dry_run = dry_run  # type: ignore[method-assign,assignment]

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        from upkeep.backup.physical import expiring
        from upkeep.backup.retention.wording import RETENTION, SEVERITY
        from upkeep.backup.store import StoreError
        from upkeep.findings import Finding, judged, unknown

        place = "cluster/log"
        with self.ledger() as ledger:
            try:
                done = expiring.carry_out(
                    run,
                    ledger,
                    self.store(),
                    self.cluster.prefix,
                    unfinished=self.rules.unfinished,
                    dry_run=truth(self.dry_run),  # type: ignore[arg-type]
                )
            except StoreError as away:
                return self.conclude(run, [unknown(RETENTION, SEVERITY, away.message, object=place)])
        findings = []
        if done.failed:
            id, why = next(iter(done.failed.items()))
            findings.append(
                Finding(
                    check=RETENTION,
                    object=place,
                    severity=SEVERITY,
                    summary=f"{len(done.failed)} stretches of the log were not deleted; {id}: {why}",
                    hint="look at the store; the next run tries again.",
                )
            )
        facts = {
            "kept": done.kept, "deleted": len(done.deleted), "deleted_bytes": done.bytes, "swept": done.swept,
            "deferred": done.deferred, "why": done.why,
        }  # fmt: skip
        return self.conclude(run, [judged(RETENTION, SEVERITY, findings, object=place, **facts)])
