"""The task `configuration` of the nightly backup."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from upkeep.backup.operators import BackupBase
from upkeep.errors import SettingsError, UpkeepError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.backup.configuration.collect import Member, Notes
    from upkeep.backup.configuration.work import Made
    from upkeep.findings import Finding
    from upkeep.ledger import Run
    from upkeep.platforms.backup import ConfigurationBackup

CONFIGURATION = "backup_configuration"
"""Check: whether tonight's archive of the configuration is there, and whole."""

REQUEST_S, DEADLINE_S = 10.0, 300.0
"""For one request to the Kubernetes API, and for all of them."""


class BackupConfigurationOperator(BackupBase):
    """
    Archive host trees and Kubernetes objects, read the archive back, and write the manifest that makes it a backup.

    Without encryption no secret is written: Secret objects and key stores are left out, other secrets become ``***``.
    """

    converging = True

    @property
    def part(self) -> ConfigurationBackup:
        """:raises SettingsError: the platform's configuration is not backed up."""
        if self.rules.configuration is None:
            raise SettingsError(
                f"{self.subject.name}: `backup.configuration` is not set", hint="set it, or remove this task."
            )
        return self.rules.configuration

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        import tarfile

        from upkeep.backup.configuration import work
        from upkeep.backup.configuration.collect import Notes
        from upkeep.findings import judged
        from upkeep.health.kubernetes import NotAnswered

        key = self.key_to_write()
        notes = Notes()
        job = work.Job(
            platform=run.platform,
            store=self.store(),
            prefix=self.part.prefix,
            key=key,
            dag_id=run.dag_id,
            run_id=run.run_id,
        )
        with self.ledger() as ledger, ledger.exclusive(f"backup/{run.platform}/configuration") as mine:
            if not mine:
                raise AirflowSkipException("the configuration is being archived right now by another run")
            try:
                members = self._members(notes, encrypted=key is not None)
                made = work.carry_out(job, ledger, run, members, notes)
            except (UpkeepError, NotAnswered, tarfile.TarError) as failed:
                self.give_up(
                    context,
                    run,
                    CONFIGURATION,
                    "configuration",
                    failed,
                    hint="make the Kubernetes API answer, then clear this task.",
                )
                raise
        self._say(made, notes)
        facts = {
            **made.manifest.facts,
            "id": made.manifest.id,
            "bytes": made.manifest.size,
            "changes": {name: len(getattr(made.changes, name)) for name in ("added", "removed", "changed")},
        }
        found = list(self._wrong(notes))
        return self.conclude(run, [judged(CONFIGURATION, self.rules.severity, found, object="configuration", **facts)])

    def _members(self, notes: Notes, *, encrypted: bool) -> Iterator[Member]:
        """Kubernetes first: when its API is away, nothing was written yet."""
        from upkeep.backup.configuration import collect
        from upkeep.settings import settings

        section = self.subject.kubernetes
        collected: list[Member] = []
        if self.part.kubernetes and section is not None:
            collected = list(collect.objects(self._api(), section.namespace, notes, encrypted=encrypted))
        yield from collect.trees(Path(settings().host_root), self.part.paths, notes, encrypted=encrypted)
        yield from collected

    def _api(self) -> Any:
        import time

        from upkeep.connections import kubernetes_client
        from upkeep.health.kubernetes import Api

        api = Api(kubernetes_client(self.subject.conn("kubernetes")), REQUEST_S)
        # Its own deadline is that of a health check.
        api.deadline = time.monotonic() + DEADLINE_S
        return api

    def _say(self, made: Made, notes: Notes) -> None:
        changes = made.changes
        self.log.info(
            "backup %s: %d entries, %d bytes, digest %s; against %s: %d added, %d changed, %d removed",
            made.manifest.id, len(made.index), made.manifest.size, made.digest[:12], changes.before or "(none)",
            len(changes.added), len(changes.changed), len(changes.removed),
        )  # fmt: skip
        for what, names in (
            ("added", changes.added),
            ("changed", changes.changed),
            ("removed", changes.removed),
            ("left out", notes.left_out),
            ("secrets hidden in", notes.hidden),
        ):
            for name in names[:50]:
                self.log.info("%s %s", what, name)

    def _wrong(self, notes: Notes) -> Iterator[Finding]:
        """One finding: its key is the check and the kind."""
        from upkeep.backup.faults import some
        from upkeep.findings import Finding, Severity

        said, hints, severity = [], [], Severity.P4
        if notes.missing:
            severity = self.rules.severity
            said.append(f"the archive is not whole: {some(notes.missing)}")
            hints.append("mount or grant what is missing, or correct `backup.configuration`; then clear the task.")
        secret = notes.hidden + [one for one in notes.left_out if "holds secrets" in one or "Secret objects" in one]
        if secret:
            said.append(f"secrets are not in the archive, because nothing is encrypted: {some(secret)}")
            hints.append("set `backup.encryption`, or see that they are kept elsewhere: a restore needs them.")
        if odd := [one for one in notes.left_out if one not in secret]:
            said.append(f"left out: {some(odd)}")
            hints.append("narrow `backup.configuration.paths` to what is configuration.")
        if said:
            yield Finding(
                check=CONFIGURATION,
                object="configuration",
                severity=severity,
                summary="; ".join(said),
                hint=" ".join(hints),
            )
