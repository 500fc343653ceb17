"""The tasks of the quarterly drill: put back what dead ones left, ask, rehearse, put back again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink

from upkeep.approval import AskPersonOperator
from upkeep.backup.operators import BackupBase
from upkeep.errors import SettingsError
from upkeep.platforms import platform as platform_of

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context
    from airflow.sdk.types import TaskInstanceKey

    from upkeep.drill.failover.local import LocalDriver
    from upkeep.drill.janitor import Settled
    from upkeep.drill.record import Act, Drill, Environment
    from upkeep.drill.restoration import Which
    from upkeep.findings import Outcome
    from upkeep.ledger import Ledger, Run
    from upkeep.platforms.backup import Recovery

ASK = "ask"
"""Task whose answer the acts read."""


class DrillLink(BaseOperatorLink):
    """The button "Drill" on the task's page."""

    name = "Drill"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        from upkeep.report.storage import page_url

        url = page_url(getattr(operator, "platform", ""), ti_key.dag_id, ti_key.run_id)
        return f"{url}{page_name(ti_key.task_id)}"


def page_name(task_id: str) -> str:
    return f"drill-{task_id}.html"


class DrillBase(BackupBase):
    """What the acts and the janitor share."""

    @property
    def recovery(self) -> Recovery:
        """:raises SettingsError: nothing is promised."""
        if self.subject.recovery is None:
            raise SettingsError(
                f"{self.subject.name} has no recovery section",
                hint="add `recovery` with rto and rpo to its platform file, or remove this task.",
            )
        return self.subject.recovery

    @property
    def environment(self) -> Environment:
        """Where the platform file wants drills."""
        return self.recovery.drill.where

    @contextmanager
    def alone(self, ledger: Ledger, *, wait_s: float = 0) -> Iterator[None]:
        """
        One drill at a time per platform.

        :param wait_s: a server needs a moment to see that a killed worker is gone, and what it held with it.
        :raises GuardError: another one runs.
        """
        import time

        from upkeep.drill import guards, record

        until = time.monotonic() + wait_s
        while True:
            with ledger.exclusive(record.lock(self.subject.name)) as mine:
                if mine:
                    yield
                    return
            if time.monotonic() >= until:
                raise guards.GuardError(
                    f"another drill of {self.subject.name} is running",
                    hint="one at a time: wait until it is over, then clear this task.",
                )
            time.sleep(1)

    def driver(self) -> LocalDriver:
        from upkeep.drill.reach import driver

        return driver(self.subject)

    def sweep(self, ledger: Ledger, run: Run) -> list[Settled]:
        """What drills of dead processes left is put back. Whoever calls is alone."""
        import socket

        from upkeep.backup import scratch, verdicts
        from upkeep.drill import janitor
        from upkeep.drill.reach import hands
        from upkeep.settings import settings

        for gone in scratch.sweep(settings().scratch):
            self.log.warning("removed %s, left by a dead drill or verification of %s", gone.path, gone.backup or "?")
            verdicts.scratch_removed(ledger, gone.path, socket.gethostname())
        settled = janitor.put_back(
            ledger, self.subject.name, hands(self.subject), within_s=self.recovery.drill.gap.total_seconds()
        )
        for one in settled:
            for done in one.done:
                self.log.warning("drill %d, dead in phase %s: %s", one.id, one.phase or "begin", done)
            if one.trouble:
                self.log.error("drill %d: not all is put back: %s", one.id, one.trouble)
        return settled


class DrillJanitorOperator(DrillBase):
    """
    Put back what dead drills left: before a drill, and as its teardown after it.

    :returns: what a person is asked about the acts that follow.
    """

    def act(self, context: Context, run: Run) -> dict[str, str]:
        from upkeep.drill import judging

        with self.ledger() as ledger, self.alone(ledger, wait_s=30):
            settled = self.sweep(ledger, run)
        self.conclude(run, [judging.left(settled, self.recovery)])
        title, drill = self.subject.title, self.recovery.drill
        body = [
            f"**{title}** is production, and this breaks it on purpose for at most {drill.gap}.",
            f"Failover ({drill.failover}): the primary is killed, a standby promoted, the old primary made a standby."
            if drill.failover != "none"
            else "No failover is rehearsed.",
            "Application: one Pod of each deployment is evicted, then replicas go up by one and down to the least.",
            "Guards are checked again after your answer: window, open findings, a verified backup, all replicas.",
        ]
        return {"subject": f"{title}: rehearse recovery in production now?", "body": "\n\n".join(body)}


class AskDrillOperator(AskPersonOperator):
    """Ask a person before production is broken on purpose; for staging the platform file has said yes."""

    deed = "drill"

    def agreed(self, context: Context) -> str:
        recovery = platform_of(self.platform).recovery
        return "" if recovery and recovery.drill.where == "production" else "the platform file"

    def skip(self, *_: Any, **__: Any) -> None:
        """A no skips the acts that it is about, and neither report nor watcher: the acts read the answer."""


class DrillOperator(DrillBase):
    """One act, one scenario: rehearsed, judged, on record, on a page of its own."""

    operator_extra_links = (DrillLink(),)
    # A drill is one for every quarter that was missed.
    converging = True

    act_name: Act
    scenario: str

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        from upkeep.drill import guards, judging, record
        from upkeep.findings import unknown

        actor = getattr(context.get("dag_run"), "triggering_user_name", None) or "the schedule"
        with self.ledger() as ledger:
            try:
                with self.alone(ledger):
                    trouble = [one for one in self.sweep(ledger, run) if one.trouble]
                    approved = self.approved(context)
                    if trouble:
                        raise guards.GuardError(
                            f"drill {trouble[0].id} left something that cannot be put back: {trouble[0].trouble}",
                            hint="mend what stands in the way, then clear this task.",
                        )
                    drill = self.rehearsed(context, run, ledger, actor, approved)
                    past = record.history(ledger, run.platform, drill.act, drill.scenario)
            except guards.GuardError as refused:
                self.log.error("refused: %s", refused)
                check = f"drill_{self.act_name}"
                return self.conclude(run, [unknown(check, judging.REFUSED, refused.message, object=self.scenario)])
            outcomes = judging.outcomes(drill, self.recovery, past, self._url(run))
        self._keep(run, drill, outcomes, past, actor, approved)
        return self.conclude(run, outcomes)

    def approved(self, context: Context) -> str:
        """Who has said yes; for what touches nothing of the platform nobody is asked."""
        return ""

    def guarded(self, context: Context, ledger: Ledger) -> Environment:
        """Where it will take place. :raises GuardError: not now."""
        return self.environment

    def rehearse(self, context: Context, run: Run, ledger: Ledger, drill: Drill) -> None:
        """Do it, and fill in the drill."""
        raise NotImplementedError

    def rehearsed(self, context: Context, run: Run, ledger: Ledger, actor: str, approved: str) -> Drill:
        from upkeep.drill import record

        environment = self.guarded(context, ledger)
        drill = record.begin(
            ledger, run, self.act_name, self.scenario, environment,
            rto_s=self.recovery.rto.total_seconds(), rpo_s=self.recovery.rpo.total_seconds(),
            actor=actor, approved_by=approved,
        )  # fmt: skip
        with ledger.action(
            run, "drill", self.act_name, self.scenario, before={"drill": drill.id, "environment": environment}
        ) as action:
            try:
                self.rehearse(context, run, ledger, drill)
            except BaseException as stopped:
                drill.stop(f"broken off: {type(stopped).__name__}: {stopped}")
                raise
            finally:
                drill.save(over=not drill.undo)
            action.after = {**drill.verdicts, "rto_s": drill.rto_s, "rpo_s": drill.rpo_s}
        for phase in drill.phases:
            self.log.info("%s: %.1f s", phase.name, phase.seconds)
        self.log.info(
            "drill %d: %s; RTO %s s, RPO %s s", drill.id,
            ", ".join(f"{name} {said}" for name, said in drill.verdicts.items()), drill.rto_s, drill.rpo_s,
        )  # fmt: skip
        return drill

    def _url(self, run: Run) -> str:
        from upkeep.report.storage import page_url

        return f"{page_url(run.platform, run.dag_id, run.run_id)}{page_name(run.task_id)}"

    def _keep(
        self, run: Run, drill: Drill, outcomes: Sequence[Outcome], past: Sequence[Mapping[str, Any]], actor: str,
        approved: str,
    ) -> None:  # fmt: skip
        from upkeep.alerts.redact import redact
        from upkeep.alerts.tell import as_the_platform_says
        from upkeep.drill import page
        from upkeep.report import storage

        shown = [as_the_platform_says(self.subject, one) for one in outcomes]
        made = page.render(
            drill, self.subject, shown, past, actor=actor, approved_by=approved, run_id=run.run_id,
            run_url=run.run_url,
        )  # fmt: skip
        content = redact(made.decode(), self.subject.alerts.personal).encode()
        try:
            self.log.info(
                "kept: %s", storage.keep(run.platform, run.dag_id, run.run_id, page_name(run.task_id), content)
            )
        except (storage.ReportError, SettingsError) as refused:
            self.log.error("the drill has no page: %s", refused)


class RestorationDrillOperator(DrillOperator):
    """
    Restore a backup into isolation, prove it, remove it.

    :param which: ``newest``; ``older``, drawn by lot; ``point_in_time``, a second drawn by lot.
    """

    act_name = "restoration"

    def __init__(self, *, which: Which = "newest", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scenario = which

    def guarded(self, context: Context, ledger: Ledger) -> Environment:
        from airflow.sdk.exceptions import AirflowSkipException

        from upkeep.backup import manifest
        from upkeep.backup.physical.source import BASES

        prefix = self.cluster.prefix + BASES if self._physical else self.database.prefix
        if self.scenario == "older" and len(manifest.committed(self.store(), prefix)) < 2:
            raise AirflowSkipException("there is no older backup yet")
        # It reads the bucket, and works beside the platform.
        return "staging"

    @property
    def _physical(self) -> bool:
        return self.rules.database is None or self.scenario == "point_in_time"

    def rehearse(self, context: Context, run: Run, ledger: Ledger, drill: Drill) -> None:
        import socket

        from upkeep.backup import verdicts
        from upkeep.backup.verification import Subject
        from upkeep.drill import restoration
        from upkeep.settings import settings

        host = socket.gethostname()
        physical = self._physical
        subject = Subject(
            platform=self.subject.name,
            store=self.store(),
            prefix=self.cluster.prefix if physical else self.database.prefix,
            id="",
            key=self.key(needed=False),
            severity=self.rules.severity,
            programs=settings().postgres_programs,
        )
        which: Any = drill.scenario
        lot = f"{run.run_id}/{which}"
        verdict = restoration.rehearse(
            drill,
            lambda: restoration.choose(ledger, subject, which, physical=physical, lot=lot),
            settings().scratch,
            self.section.queries,
            made=lambda path, id: verdicts.scratch_made(ledger, run, path, host, id),
            removed=lambda path: verdicts.scratch_removed(ledger, path, host),
        )
        for fault in verdict.faults if verdict else ():
            self.log.error("%s", fault.said)
