"""The tasks of the backup Dags that look after the database."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from upkeep.errors import LedgerError, SettingsError, UpkeepError
from upkeep.operators import PlatformOperator
from upkeep.postgres.operators import PostgresOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.backup.encryption import Key
    from upkeep.backup.store import Store
    from upkeep.backup.verdicts import Tier
    from upkeep.backup.verification import Subject, Verdict
    from upkeep.findings import Outcome
    from upkeep.ledger import Ledger, Run
    from upkeep.platforms.backup import Backup, ClusterBackup, DatabaseBackup

MADE = "backup"
"""Check: whether there is a backup of tonight."""


class BackupBase(PostgresOperator):
    """What the tasks of backups share."""

    @property
    def rules(self) -> Backup:
        """:raises SettingsError: the platform has no backups."""
        if self.subject.backup is None:
            raise SettingsError(
                f"{self.subject.name} has no backups",
                hint="add the section `backup` to its platform file, or remove this task.",
            )
        return self.subject.backup

    @property
    def database(self) -> DatabaseBackup:
        """:raises SettingsError: its database is not backed up."""
        if self.rules.database is None:
            raise SettingsError(
                f"{self.subject.name}: `backup.database` is not set", hint="set it, or remove this task."
            )
        return self.rules.database

    @property
    def cluster(self) -> ClusterBackup:
        """:raises SettingsError: its cluster is not backed up."""
        if self.rules.cluster is None:
            raise SettingsError(
                f"{self.subject.name}: `backup.cluster` is not set", hint="set it, or remove this task."
            )
        return self.rules.cluster

    def store(self) -> Store:
        """The bucket of backups. :raises SettingsError: there is no such connection."""
        from upkeep.backup.store import Store
        from upkeep.connections import s3_client

        return Store(s3_client(self.subject.conn("backup_s3")), self.rules.bucket, lock=self.rules.object_lock)

    def key(self, *, needed: bool) -> Key | None:
        """
        The platform's key.

        :param needed: False where a backup may be older than encryption: no key is then no error yet.
        :raises SettingsError: there is none, or it is no key.
        """
        from upkeep.backup.encryption import age_key, key
        from upkeep.connections import connection

        conn_id = self.subject.conn("backup_key")
        try:
            found = connection(conn_id)
            if self.rules.encryption == "age":
                return age_key(found.login or "", found.password or "", conn_id)
            return key(found.password or "", conn_id)
        except SettingsError:
            if needed:
                raise
            return None

    def key_to_write(self) -> Key | None:
        """None: the platform does not encrypt. :raises SettingsError: it does, and there is no key."""
        return None if self.rules.encryption == "none" else self.key(needed=True)

    def give_up(self, context: Context, run: Run, check: str, part: str, failed: Exception, *, hint: str) -> None:
        """
        On the last try: tell that there is no backup of ``part``.

        :param hint: where the error brings none of its own.
        :raises AirflowFailException: always then: no backup is red.
        """
        from upkeep.findings import Finding, judged

        ti: Any = context["ti"]
        if ti.try_number <= (getattr(ti, "max_tries", 0) or 0):
            return
        said = failed.message if isinstance(failed, UpkeepError) else " ".join(str(failed).split())
        finding = Finding(
            check=check,
            object=part,
            severity=self.rules.severity,
            summary=f"no backup of the {part} was made: {said}",
            hint=failed.hint if isinstance(failed, UpkeepError) else hint,
        )
        self.conclude(run, [judged(check, self.rules.severity, [finding], object=part)], needs_ledger=False)


class BackupDatabaseOperator(BackupBase):
    """
    Dump the database with the digests of its snapshot, and write the manifest that makes it a backup.

    Without the ledger the backup is made all the same. A try that fails leaves nothing that counts; what a killed one
    left is swept by the next.
    """

    converging = True

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        import psycopg

        from upkeep.backup import dump, programs, records, sweeping
        from upkeep.findings import ok
        from upkeep.settings import settings

        store, prefix = self.store(), self.database.prefix
        job = dump.Job(
            platform=run.platform,
            conninfo=self.conninfo(),
            store=store,
            prefix=prefix,
            key=self.key_to_write(),
            dag_id=run.dag_id,
            run_id=run.run_id,
        )
        with ExitStack() as stack:
            alone = self._alone(stack, run)
            try:
                for gone in sweeping.uploads(store, prefix, older_than=None if alone else self.rules.unfinished):
                    self.log.info("what a dead worker left of %s is forgotten", gone)
                with self.action(run, "backup", "dump", "database", before={"prefix": prefix}) as action:
                    made = dump.dump(job, lambda version: programs.client(version, settings().postgres_programs))
                    backup = made.manifest
                    seconds = (backup.finished - backup.started).total_seconds()
                    action.after = {"id": backup.id, "bytes": backup.size, "seconds": round(seconds, 1)}
            except (UpkeepError, psycopg.Error) as failed:
                self.give_up(context, run, MADE, "database", failed, hint="mend the database, then clear this task.")
                raise
        try:
            with self.ledger() as ledger:
                records.remember(ledger, store.bucket, prefix, backup, sha256=made.manifest_sha256)
        except (LedgerError, SettingsError) as away:
            self.log.error("backup %s counts, and is not on record: %s", backup.id, away)
        assert backup.database is not None
        rows = sum(table.rows for table in backup.database.tables)
        self.log.info(
            "backup %s: %d tables, %d rows, %.1f MB in %.1f s, at %s",
            backup.id, len(backup.database.tables), rows, backup.size / 1e6, seconds, store.url(prefix + backup.id),
        )  # fmt: skip
        facts = {"id": backup.id, "bytes": backup.size, "seconds": round(seconds, 1), "rows": rows}
        self.conclude(run, [ok(MADE, self.rules.severity, object="database", **facts)], needs_ledger=False)
        for asset in self.outlets:
            context["outlet_events"][asset].extra = {"id": backup.id}
        return facts

    def _alone(self, stack: ExitStack, run: Run) -> bool:
        """Whether nobody else makes backups of this platform: then all that is unfinished is a dead worker's."""
        try:
            ledger: Ledger = stack.enter_context(self.ledger())
            alone = stack.enter_context(ledger.exclusive(f"backup/{run.platform}/database"))
        except (LedgerError, SettingsError) as away:
            self.log.error("made without being recorded: %s", away)
            return False
        if not alone:
            raise AirflowSkipException("another backup of this database is being made right now")
        return True


class VerifyBackupOperator(BackupBase):
    """
    Verify one backup of the database.

    :param tier: ``bytes`` reads every byte back; ``content`` restores it into a throw-away cluster and compares.
    :param backup: its id (templated); empty for the one whose asset started this run, else the newest.
    :param older: any of the older ones instead, drawn by lot: what was good when it was made must stay so.
    """

    template_fields: Sequence[str] = (*PlatformOperator.template_fields, "backup")

    def __init__(self, *, tier: Tier, backup: str = "", older: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tier = tier
        self.older = older
        self.backup = backup

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        from upkeep.backup import verification
        from upkeep.backup.scratch import LeftError
        from upkeep.findings import judged, unknown

        check = verification.BYTES if self.tier == "bytes" else verification.CONTENT
        store = self.store()
        id = self._chosen(context, store)
        with self.ledger() as ledger:
            subject = self._subject(ledger, store, id)
            try:
                with ledger.action(run, "backup", f"verify {self.tier}", id) as action:
                    verdict = self._verify(ledger, run, subject)
                    action.after = dict(verdict.facts)
            except LeftError as trouble:
                left = judged(verification.SCRATCH, self.rules.severity, [_left(subject, trouble)], object=_host())
                return self.conclude(run, [left])
            except (UpkeepError, OSError) as trouble:
                said = getattr(trouble, "message", "") or str(trouble)
                self.conclude(run, [unknown(check, subject.severity, f"{id}: {said}", object=subject.object)])
                raise
            self._record(ledger, subject, verdict)
        outcomes: list[Outcome] = [verification.outcome(check, subject, verdict)]
        return self.conclude(run, outcomes)

    @property
    def prefix(self) -> str:
        """Where the backups lie."""
        return self.database.prefix

    def _verify(self, ledger: Ledger, run: Run, subject: Subject) -> Verdict:
        from upkeep.backup import verdicts, verification
        from upkeep.settings import settings

        if self.tier == "bytes":
            return verification.read_back(subject)
        return verification.restore(
            subject,
            settings().scratch,
            self.section.queries,
            made=lambda path: verdicts.scratch_made(ledger, run, path, _host(), subject.id),
            removed=lambda path: verdicts.scratch_removed(ledger, path, _host()),
        )

    def _record(self, ledger: Ledger, subject: Subject, verdict: Verdict) -> None:
        from upkeep.backup import records, verdicts

        for fault in verdict.faults:
            self.log.error("%s", fault.said)
        for name, seconds in (verdict.facts.get("seconds") or {}).items():
            self.log.info("%s: %.1f s", name, seconds)
        if verdict.manifest is not None and not subject.sha256:
            records.remember(ledger, subject.store.bucket, subject.prefix, verdict.manifest)
        if not verdict.unknown:
            verdicts.write(ledger, subject.platform, subject.id, self.tier, verdict.faults, verdict.facts)

    def _chosen(self, context: Context, store: Store) -> str:
        from upkeep.backup import manifest, verification

        if wanted := self.backup.strip():
            manifest.folder("", wanted)
            return wanted
        if self.older:
            return self._any_older(store, context)
        events: Any = context.get("triggering_asset_events") or {}
        ids = [str((event.extra or {}).get("id") or "") for some in events.values() for event in some]
        if any(ids):
            return max(filter(None, ids))
        if newest := verification.newest(store, self.prefix):
            return newest
        raise SettingsError(
            f"no backup in {store.url(self.prefix)}",
            hint="trigger the backup Dag; there is nothing to verify, and nothing to restore.",
        )

    def _any_older(self, store: Store, context: Context) -> str:
        import random

        from upkeep.backup import manifest, verification

        newest = verification.newest(store, self.prefix)
        others = [id for id in manifest.committed(store, self.prefix) if id != newest]
        if not others:
            raise AirflowSkipException("there is no older backup")
        # The same for each try of this run: what was red is looked at again.
        return random.Random(str(context["run_id"])).choice(sorted(others))

    def _subject(self, ledger: Ledger, store: Store, id: str) -> Subject:
        from upkeep.backup import verdicts
        from upkeep.backup.verification import Subject
        from upkeep.settings import settings

        return Subject(
            platform=self.subject.name,
            store=store,
            prefix=self.prefix,
            id=id,
            sha256=verdicts.manifest_sha256(ledger, self.subject.name, id),
            key=self.key(needed=False),
            severity=self.rules.severity,
            programs=settings().postgres_programs,
        )


class SweepScratchOperator(BackupBase):
    """
    Remove throw-away clusters that dead workers left on this worker, and say where others may still lie.

    Before a verification it makes room; after it, as its teardown, it makes sure: they hold production's data.
    """

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        from pathlib import Path

        from upkeep.backup import scratch, verdicts, verification
        from upkeep.findings import Finding, judged
        from upkeep.settings import settings

        host = _host()
        with self.ledger() as ledger:
            for gone in scratch.sweep(settings().scratch):
                self.log.info("removed %s, left by a dead verification of %s", gone.path, gone.backup or "?")
                verdicts.scratch_removed(ledger, gone.path, host)
            findings = []
            for row in verdicts.scratches(ledger, run.platform):
                here = row["host"] == host
                # A worker that was not seen for so long is gone, and its disk with it.
                if (here and not Path(row["path"]).exists()) or _age(row["made_at"]) > self.rules.unfinished:
                    verdicts.scratch_removed(ledger, Path(row["path"]), row["host"])
                    continue
                findings.append(
                    Finding(
                        check=verification.SCRATCH,
                        object=row["host"],
                        severity=self.rules.severity,
                        summary=f"{row['path']} on {row['host']} holds a restored copy of the database since"
                        f" {row['made_at']:%d %b %H:%M} UTC, and its maker is gone",
                        hint="run a verification on that worker (it sweeps), or remove the directory by hand.",
                    )
                )
        return self.conclude(run, [judged(verification.SCRATCH, self.rules.severity, findings)])


def _left(subject: Subject, trouble: Exception) -> Any:
    from upkeep.backup.verification import SCRATCH
    from upkeep.findings import Finding

    return Finding(
        check=SCRATCH,
        object=_host(),
        severity=subject.severity,
        summary=getattr(trouble, "message", str(trouble)),
        hint=getattr(trouble, "hint", ""),
    )


def _age(made_at: datetime) -> timedelta:
    return datetime.now(UTC) - made_at


def _host() -> str:
    import socket

    return socket.gethostname()
