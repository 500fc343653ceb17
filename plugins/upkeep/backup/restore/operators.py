"""The tasks of `restore` up to the question: read the form, see whether it fits, bring the backup, prove, erase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from upkeep.backup.operators import BackupBase
from upkeep.errors import LedgerError, SettingsError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.backup.restore.form import Asked
    from upkeep.backup.restore.job import Job
    from upkeep.backup.restore.record import Restore
    from upkeep.ledger import Ledger, Run
    from upkeep.platforms.backup import Restoring

CHOOSE = "choose"
"""Task whose result the others read: ``{"asked": …, "restore": "1a2b3c4d", "sentence": …}``."""


class RestoreOperator(BackupBase):
    """What the tasks of a restore share; one that refuses fails at once, because trying again does not help."""

    @property
    def restoring(self) -> Restoring:
        """:raises SettingsError: the platform file does not want restores by form."""
        if self.database.restore is None:
            raise SettingsError(
                f"{self.subject.name} is not restored by form",
                hint="set `backup.database.restore` in its platform file; `python -m upkeep check` then names the"
                " rights that it takes.",
            )
        return self.database.restore

    def execute(self, context: Context) -> Any:
        from upkeep.backup.manifest import ManifestError
        from upkeep.backup.restore.choose import RefusedError

        try:
            return super().execute(context)
        except (RefusedError, ManifestError) as refused:
            raise AirflowFailException(str(refused)) from refused

    def owner_conninfo(self) -> str:
        """As the owner role. :raises SettingsError: there is no such connection."""
        from upkeep.connections import postgres_conninfo

        return postgres_conninfo(self.subject.conn("postgres_owner"))

    def job(self, run: Run, ledger: Ledger) -> Job:
        from upkeep.backup.restore.job import Job
        from upkeep.settings import settings

        return Job(
            run=run,
            ledger=ledger,
            store=self.store(),
            prefix=self.database.prefix,
            owner=self.owner_conninfo(),
            maintenance=self.conninfo(),
            rules=self.restoring,
            key=self.key(needed=False),
            queries=self.section.queries,
            directories=settings().postgres_programs,
            free=self.free,
        )

    def free(self) -> float:
        """Bytes left on the database's disk. :raises SettingsError: nobody knows."""
        from upkeep.health.metrics import NoAnswer, least
        from upkeep.settings import settings

        metrics = self.subject.metrics
        hint = "name where free disk is read as `metrics.database_free` in the platform file, and see that it answers."
        if metrics is None or not metrics.database_free:
            raise SettingsError("the platform file does not say where free disk is read", hint=hint)
        try:
            return least(metrics, metrics.database_free, connect_to=settings().connect_to)
        except NoAnswer as no:
            raise SettingsError(f"Prometheus: {no}", hint=hint) from None

    def asked(self, context: Context) -> Asked:
        from upkeep.backup.restore.form import Asked

        return Asked(**context["ti"].xcom_pull(task_ids=CHOOSE)["asked"])

    def restore(self, context: Context, ledger: Ledger) -> Restore:
        """As it stands now."""
        from upkeep.backup.restore import record

        return record.find(ledger, self.subject.name, context["ti"].xcom_pull(task_ids=CHOOSE)["restore"])

    def only(self, context: Context) -> Asked:
        """:raises AirflowSkipException: another action than a restore was asked for."""
        asked = self.asked(context)
        if asked.action != "restore":
            raise AirflowSkipException(f"{asked.action}: nothing is restored")
        return asked

    def tell(self, context: Context, run: Run, text: str, *, asks: bool = False) -> None:
        """In the log and in Slack; that Slack is away must not stop a restore."""
        self.log.info("%s", text)
        chosen = context["ti"].xcom_pull(task_ids=CHOOSE) or {}
        tell(self.subject, run, str(chosen.get("restore") or "refused"), text, self.log, asks=asks)


def tell(subject: Any, run: Run, restore: str, text: str, log: Any, *, asks: bool = False) -> None:
    """To Slack, through the outbox; what cannot be sent now, `alert_delivery` sends later."""
    from upkeep.alerts.senders import send
    from upkeep.alerts.tell import BUDGET_S
    from upkeep.backup.restore.wording import message
    from upkeep.connections import open_ledger
    from upkeep.ledger.outbox import deliver, enqueue

    try:
        with open_ledger() as ledger:
            made = message(subject, run, restore, text, asks=asks)
            with ledger.transaction() as connection:
                enqueue(connection, made)
            deliver(ledger, send, keys=[made.key], budget_s=BUDGET_S)
    except (LedgerError, SettingsError) as away:
        log.error("not told: %s", away)


class ChooseOperator(RestoreOperator):
    """Read the form, choose the backup, store the plan; nothing is made yet."""

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        from datetime import UTC, datetime

        from upkeep.backup.restore import choose, form, record, target

        _ = self.restoring
        asked = form.read(self.subject.name, context["params"])
        now = datetime.now(UTC)
        with self.ledger() as ledger:
            if asked.action != "restore":
                known = record.find(ledger, self.subject.name, asked.restore)
                ledger.plan(run, "restore", [{**asked.as_dict(), "live": known.live, "before": known.before}])
                self.log.info(
                    "%s: restore %s of backup %s, which is %s", asked.action, known.id, known.backup, known.state
                )
                return {"asked": asked.as_dict(), "restore": known.id, "sentence": ""}
            chosen = choose.choose(ledger, self.store(), self.database.prefix, asked)
            actor = getattr(context.get("dag_run"), "triggering_user_name", None) or "somebody"
            live = target.name_in(self.owner_conninfo())
            restore = record.begin(ledger, run, asked, chosen.manifest.id, live, actor)
            sentence = chosen.sentence(now)
            ledger.plan(
                run,
                "restore",
                [{**asked.as_dict(), "backup": chosen.manifest.id, "live": live, "made": restore.made}],
                dry_run=asked.place == "beside",
            )
        self.log.info("restore %s: %s", restore.id, sentence)
        self.log.info(
            "into the new database %s%s",
            restore.made,
            f", then, after a yes, in the place of {live}" if asked.place == "replace" else " beside the living one",
        )
        return {"asked": asked.as_dict(), "restore": restore.id, "sentence": sentence}


class RoomOperator(RestoreOperator):
    """Whether it can be restored here: rights, disk, everything that is in the dump. Unknown means no."""

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        from upkeep.backup.restore import job

        asked = self.only(context)
        with self.ledger() as ledger:
            seen = job.room(self.job(run, ledger), self.restore(context, ledger), swaps=asked.place == "replace")
        self.log.info("%.2f GB of disk are needed, %.2f are free", seen["needed_bytes"] / 1e9, seen["free_bytes"] / 1e9)
        if seen["left_out"]:
            self.log.warning("not restored, because only a superuser may: %s", seen["left_out"])
        return seen


class LoadOperator(RestoreOperator):
    """Read the backup whole, make the new database, load it. Killed and run again, it begins anew."""

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        from upkeep.backup.restore import job

        self.only(context)
        with self.ledger() as ledger:
            restore = job.bring(self.job(run, ledger), self.restore(context, ledger))
        seconds: dict[str, Any] = restore.facts["seconds"]
        self.log.info("%s: %s", restore.made, ", ".join(f"{name} {took:.1f} s" for name, took in seconds.items()))
        return seconds


class ProveOperator(RestoreOperator):
    """Compare the new database with the manifest: rows, digests, sequences, extensions, the platform's questions."""

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        from upkeep.backup.restore import job

        self.only(context)
        with self.ledger() as ledger:
            restore = job.prove(self.job(run, ledger), self.restore(context, ledger))
        facts = {name: restore.facts[name] for name in ("tables", "rows")}
        self.log.info("%(tables)d tables with %(rows)d rows are what the backup held", facts)
        return facts


class EraseAgainOperator(RestoreOperator):
    """Delete again what was deleted for good since the backup: erased people stay erased."""

    def act(self, context: Context, run: Run) -> str:
        from upkeep.backup.restore import job

        self.only(context)
        with self.ledger() as ledger:
            restore = job.erase(self.job(run, ledger), self.restore(context, ledger))
        said: str = restore.facts["erased"]
        self.log.info("%s", said)
        return said
