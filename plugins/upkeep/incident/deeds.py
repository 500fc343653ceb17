"""The tasks of `incident_response` that do something: the one remedy, whether it helped, and what is put back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from upkeep.errors import LedgerError, SettingsError, UpkeepError
from upkeep.health.operators import HealthCheckOperator
from upkeep.incident.operators import INTAKE, asked_in, say
from upkeep.operators import PlatformOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.incident.form import Asked
    from upkeep.ledger import Run


class RemedyOperator(PlatformOperator):
    """Do the one thing that was asked for. Killed and run again, it is done once."""

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        asked = asked_in(context)
        if asked.action == "diagnose":
            self.log.info("Only looking was asked for.")
            return {"changed": False, "said": "only looking was asked for"}
        with (
            self._alone(asked),
            self.action(run, "incident", asked.action, asked.object, before=asked.as_dict()) as action,
        ):
            try:
                done = self._do(asked, run, context["ti"].xcom_pull(task_ids=INTAKE)["target"])
            except UpkeepError as refused:
                say(context, self.log, "remedy failed", refused.message)
                raise AirflowFailException(str(refused)) from refused
            action.after = done
        self.log.info("%s", done["said"])
        say(context, self.log, "remedy", done["said"], done)
        return done

    @contextmanager
    def _alone(self, asked: Asked) -> Iterator[None]:
        """One remedy at a time per platform; without the ledger nobody can tell, and it is done all the same."""
        try:
            ledger = self.ledger()
        except (LedgerError, SettingsError) as away:
            self.log.error("whether somebody else is at it is not known: %s", away)
            yield
            return
        with ledger, ledger.exclusive(f"incident/{asked.platform}") as mine:
            if not mine:
                raise AirflowFailException(
                    f"another remedy is at work on {asked.platform}\n"
                    "HINT: one at a time: wait for it, look whether it helped, then clear this task."
                )
            yield

    def _do(self, asked: Asked, run: Run, target: Mapping[str, Any]) -> dict[str, Any]:
        from upkeep import connections
        from upkeep.incident import cache, cdn, remedies

        if asked.addresses:
            assert self.subject.cdn is not None
            access = connections.cdn_access(self.subject.conn("cdn"), self.subject.cdn.api)
            purged = cdn.purge(access, self.subject.cdn, asked.addresses)
            said = f"the CDN forgot {len(purged.addresses)} addresses and {len(purged.tags)} tags"
            return {"changed": True, "said": said, **vars(purged)}
        if asked.action == "cache":
            done = cache.clear(connections.redis_arguments(self.subject.conn("redis")), asked.prefixes)
            gone = ", ".join(f"{count:,} {prefix}*" for prefix, count in done.gone.items())
            return {"changed": any(done.gone.values()), "said": f"cleared {gone}", **vars(done)}
        kubernetes = self.subject.kubernetes
        assert kubernetes is not None
        client = connections.kubernetes_client(self.subject.conn("kubernetes"))
        if asked.action == "restart":
            one = remedies.restart(
                client, kubernetes.namespace, asked.deployment, key=run.run_id, downtime=asked.downtime
            )
        elif asked.action == "scale":
            (bounds,) = [each for each in kubernetes.deployments if each.name == asked.deployment]
            lasts = timedelta(minutes=asked.minutes)
            one = remedies.scale(client, kubernetes.namespace, bounds, to=asked.replicas, lasts=lasts)
        else:
            one = remedies.undo(client, kubernetes.namespace, asked.deployment, target["replica_set"])
        return {"changed": one.changed, "said": one.said}


class HelpedOperator(HealthCheckOperator):
    """
    Wait until the rollout is over, then look until the platform is well; say what to try next when it stays ill.

    :param within: how long after the remedy the platform must be well.
    """

    def __init__(self, *, within: timedelta = timedelta(minutes=10), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.within = within

    def act(self, context: Context, run: Run) -> Any:
        from upkeep.findings import worst
        from upkeep.incident import form

        asked = asked_in(context)
        if asked.action == "diagnose":
            return super().act(context, run)
        ends = time.monotonic() + self.within.total_seconds()
        self._rolled_out(context, asked, ends)
        while True:
            outcomes = self._look()
            bad = worst(outcomes)
            if bad is None or not bad.at_least(self.subject.severity.failing):
                self._mitigated(context)
                return self.conclude(run, outcomes)
            if time.monotonic() + 15 > ends:
                break
            self.log.info("not well yet (%s); looking again in 15 s", bad)
            time.sleep(15)
        try:
            return self.conclude(run, outcomes)
        except AirflowFailException as ill:
            say(context, self.log, "did not help", f"to {asked.sentence}: {ill}")
            raise AirflowFailException(f"to {asked.sentence} did not help\n{form.what_next(asked)}\n{ill}") from None

    def _mitigated(self, context: Context) -> None:
        """The incident is mitigated; that it is over a person says."""
        from upkeep.incident.record import become, find

        if not (id := context["ti"].xcom_pull(task_ids=INTAKE)["incident"]):
            return
        try:
            with self.ledger() as ledger:
                if find(ledger, id).state in ("open", "acknowledged"):
                    actor = f"{context['ti'].dag_id}.{context['ti'].task_id}"
                    become(ledger, id, "mitigated", actor=actor, said="the platform is well again", review=True)
        except UpkeepError as away:
            self.log.error("the incident's state is not on record: %s", away)

    def _rolled_out(self, context: Context, asked: Asked, ends: float) -> None:
        from upkeep.connections import kubernetes_client
        from upkeep.incident import form, workloads

        if asked.action not in ("restart", "scale", "rollback"):
            return
        assert self.subject.kubernetes is not None
        client = kubernetes_client(self.subject.conn("kubernetes"))
        try:
            workloads.wait(
                client, self.subject.kubernetes.namespace, asked.deployment, within_s=ends - time.monotonic()
            )
        except workloads.WorkloadError as stuck:
            say(context, self.log, "did not help", stuck.message)
            raise AirflowFailException(f"{stuck}\n{form.what_next(asked)}") from None


class PutBackOperator(PlatformOperator):
    """
    After a scaling: wait, without a worker, until its time is over, then put back what was before.

    What was before stands on the object in Kubernetes; a second scaling meanwhile makes this wait for its end, too.
    """

    def act(self, context: Context, run: Run) -> Any:
        from datetime import UTC, datetime

        from airflow.providers.standard.triggers.temporal import DateTimeTrigger
        from airflow.sdk.exceptions import AirflowSkipException

        from upkeep.incident import remedies

        if not context["ti"].xcom_pull(task_ids=INTAKE) or (asked := asked_in(context)).action != "scale":
            raise AirflowSkipException("nothing was scaled")
        client, namespace = self._cluster()
        until = remedies.due(client, namespace, asked.deployment)
        if until is None:
            self._close_the_record(run, asked.deployment)
            raise AirflowSkipException(f"{asked.deployment} was not scaled, or is put back already")
        if until > datetime.now(UTC):
            self.log.info("%s is put back at %s", asked.deployment, until)
            self.defer(trigger=DateTimeTrigger(moment=until), method_name="execute_complete")
        with self.action(run, "incident", "put back", asked.deployment, before={"until": until.isoformat()}) as action:
            done = remedies.put_back(client, namespace, asked.deployment)
            action.after = vars(done)
        self.log.info("%s", done.said)
        say(context, self.log, "put back", done.said)
        return done.said

    def _close_the_record(self, run: Run, deployment: str) -> None:
        try:
            with self.ledger() as ledger:
                ledger.close_records(
                    run, "incident", ["put back"], lambda object: object == deployment, said="it is put back already"
                )
        except (LedgerError, SettingsError) as away:
            self.log.error("that nothing is left to put back is not on record: %s", away)

    def execute_complete(self, context: Context, event: Any) -> Any:
        """Looked at anew: it may have been scaled again meanwhile."""
        return self.execute(context)

    def _cluster(self) -> tuple[Any, str]:
        from upkeep.connections import kubernetes_client

        assert self.subject.kubernetes is not None
        return kubernetes_client(self.subject.conn("kubernetes")), self.subject.kubernetes.namespace
