"""The task `files` of the nightly backup."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from upkeep.backup.operators import BackupBase
from upkeep.errors import SettingsError
from upkeep.operators import PlatformOperator, truth

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.backup.files.copying import Copier
    from upkeep.backup.files.work import Done, Job, Look
    from upkeep.findings import Outcome
    from upkeep.ledger import Ledger, Run
    from upkeep.platforms.backup import FilesBackup

FILES = "backup_files"
"""Check: whether tonight's copy of the files is there, and nobody is erasing them."""


class BackupFilesOperator(BackupBase):
    """
    Copy what is new of the application's files, and write the manifest that makes it a backup.

    Nothing is ever deleted or replaced: a file that changed gets another copy, one that was deleted keeps its own.

    :param approve_plan: digest of a stored plan by which a person says yes to the files that have gone (templated).
    :param dry_run: look, store the plan, and copy nothing (templated).
    """

    converging = True
    template_fields: Sequence[str] = (*PlatformOperator.template_fields, "approve_plan", "dry_run")

    def __init__(self, *, approve_plan: str = "", dry_run: bool | str = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.approve_plan = approve_plan
        # Hides BaseOperator.dry_run, which only prints templates for `airflow tasks test --dry-run`.
        self.dry_run = dry_run  # type: ignore[method-assign,assignment]

    @property
    def files(self) -> FilesBackup:
        """:raises SettingsError: the platform's files are not copied."""
        if self.rules.files is None:
            raise SettingsError(f"{self.subject.name}: `backup.files` is not set", hint="set it, or remove this task.")
        return self.rules.files

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        from upkeep.backup.files import work
        from upkeep.backup.store import StoreError
        from upkeep.findings import judged

        with self.ledger() as ledger, self._alone(ledger, run):
            job = self._job(ledger, run)
            try:
                done = work.carry_out(job, ledger, run, dry_run=truth(self.dry_run))  # type: ignore[arg-type]
            except StoreError as failed:
                self.give_up(
                    context, run, FILES, "files", failed, hint="make the buckets answer, then clear this task."
                )
                raise
        self._say(done.seen)
        if done.stopped:
            return self.conclude(run, [self._storm(run, done)])
        if done.made is None:
            return asdict(done.seen)
        counted = asdict(done.made.counted)
        self.log.info("backup %s: %s", done.made.manifest.id, counted)
        facts = {"id": done.made.manifest.id, **asdict(done.seen), **counted, "sampled": done.made.sampled}
        found = self._wrong(done.seen, done.made.differ)
        return self.conclude(run, [judged(FILES, self.rules.severity, found, object="files", **facts)])

    @contextmanager
    def _alone(self, ledger: Ledger, run: Run) -> Iterator[None]:
        with ledger.exclusive(f"backup/{run.platform}/files") as mine:
            if not mine:
                raise AirflowSkipException("these files are being copied right now by another run")
            yield

    def _job(self, ledger: Ledger, run: Run) -> Job:
        from upkeep.backup.files.work import Job

        return Job(
            platform=run.platform,
            copier=self._copier(),
            prefix=self.files.prefix,
            most_deleted=self.files.most_deleted,
            approved=self._approved(ledger, run),
            dag_id=run.dag_id,
            run_id=run.run_id,
        )

    def _copier(self) -> Copier:
        from upkeep.backup.files.copying import Copier
        from upkeep.backup.store import Store
        from upkeep.connections import s3_client

        target = self.store()
        source = Store(s3_client(self.subject.conn("s3")), self.files.bucket)
        return Copier(
            source=source,
            target=target,
            prefix=self.files.prefix,
            storage_class=self.files.storage_class,
            through_worker=source.client.meta.endpoint_url != target.client.meta.endpoint_url,
        )

    def _approved(self, ledger: Ledger, run: Run) -> int:
        """So many deleted files a person has said yes to. :raises SettingsError: that is no plan of ours."""
        from upkeep.backup.retention.work import approved_items

        items = approved_items(ledger, run.platform, self.approve_plan.strip())
        return max((item["deleted"] for item in items if item["kind"] == "files"), default=0)

    def _say(self, seen: Look) -> None:
        self.log.info(
            "%d files, %.1f MB; against backup %s: %d new, %d changed, %d gone, %d copies to make again",
            seen.files, seen.bytes / 1e6, seen.before_id or "(none)", seen.new, seen.changed, seen.deleted, seen.remade,
        )  # fmt: skip

    def _storm(self, run: Run, done: Done) -> Outcome:
        from upkeep.findings import Finding, judged

        seen = done.seen

        finding = Finding(
            check=FILES,
            object="files",
            severity=self.rules.severity,
            summary=f"nothing was copied: {done.stopped}; among them {', '.join(seen.examples)}",
            hint="find out who deletes them; their copies are still there. If it is right, trigger"
            f" {run.dag_id} with `approve_plan` = {done.plan} within a week.",
            facts=asdict(seen),
        )
        return judged(FILES, self.rules.severity, [finding], object="files", **asdict(seen))

    def _wrong(self, seen: Look, differ: list[str]) -> list[Any]:
        from upkeep.findings import Finding, Severity

        found = []
        if differ:
            found.append(
                Finding(
                    check=FILES,
                    object="files",
                    severity=self.rules.severity,
                    summary=f"{len(differ)} copies in a sample are not what the files are: {', '.join(differ[:3])}",
                    hint="the bucket of backups loses or mixes data; remove those copies, and the next run makes them.",
                )
            )
        elif seen.remade:
            found.append(
                Finding(
                    check=FILES,
                    object="files",
                    severity=Severity.P2,
                    summary=f"{seen.remade:,} copies had gone from the bucket of backups, and were made again",
                    hint="find out who deletes there: copies of files that are no more could not be made again.",
                )
            )
        return found
