"""The tasks of `incident_response`: read the form, gather evidence, ask, do one thing, look whether it helped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowFailException

from upkeep.errors import LedgerError, SettingsError, UpkeepError
from upkeep.health.operators import HealthCheckOperator
from upkeep.operators import PlatformOperator
from upkeep.platforms import platform as platform_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.incident.form import Asked
    from upkeep.ledger import Ledger, Run

INTAKE = "intake"
"""Task whose result the others read."""


def asked_in(context: Context) -> Asked:
    from upkeep.incident.form import Asked

    return Asked.from_dict(context["ti"].xcom_pull(task_ids=INTAKE)["asked"])


def say(context: Context, log: Any, kind: str, said: str, facts: Mapping[str, Any] | None = None) -> None:
    """Add a line to the incident's timeline; without the ledger it is in the log alone."""
    from upkeep.connections import open_ledger
    from upkeep.incident.record import note

    if not (id := context["ti"].xcom_pull(task_ids=INTAKE)["incident"]):
        return
    try:
        with open_ledger() as ledger:
            note(ledger, id, f"{context['ti'].dag_id}.{context['ti'].task_id}", kind, said, facts)
    except (LedgerError, SettingsError) as away:
        log.error("not in the timeline of %s: %s", id, away)


class IntakeOperator(PlatformOperator):
    """
    Read the form, choose what a rollback goes back to before anything is done, and declare the incident or join it.

    :returns: ``{"asked": …, "sentence": …, "preapproved": bool, "target": …, "incident": "studyspot-7"}``.
    """

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        from upkeep.incident import form, remedies

        asked = form.read(self.subject, context["params"])
        target: dict[str, Any] = {}
        if asked.action == "rollback":
            chosen = remedies.earlier(self._client(), self._namespace(), asked.deployment)
            target = {"replica_set": chosen.replica_set, "revision": chosen.revision, "images": chosen.images}
        incident = self._declare(context, run, asked, {**asked.as_dict(), "target": target})
        self.log.info("%s %s: %s. %s", asked.severity, self.subject.title, asked.sentence, asked.description)
        return {
            "asked": asked.as_dict(),
            "sentence": asked.sentence,
            "preapproved": form.preapproved(self.subject, asked),
            "target": target,
            "incident": incident,
        }

    def _declare(self, context: Context, run: Run, asked: Asked, item: dict[str, Any]) -> str:
        """Its id; empty without the ledger, which must not stand in the way of help."""
        from upkeep.incident.record import declare, note

        actor = getattr(context.get("dag_run"), "triggering_user_name", None) or "somebody"
        title = asked.description[:200] or f"{asked.symptom} on {self.subject.title}"
        try:
            with self.ledger() as ledger:
                ledger.plan(run, "incident", [item])
                incident, new = declare(
                    ledger, self.subject, asked.severity, title, actor=actor, description=asked.description
                )
                note(ledger, incident.id, actor, "asked", f"to {asked.sentence}", {"run": run.run_id, **item})
        except (LedgerError, SettingsError) as away:
            self.log.error("this incident is not on record: %s", away)
            return ""
        self.log.info("%s incident %s", "declared" if new else "joined", incident.id)
        return incident.id

    def _client(self) -> Any:
        from upkeep.connections import kubernetes_client

        return kubernetes_client(self.subject.conn("kubernetes"))

    def _namespace(self) -> str:
        assert self.subject.kubernetes is not None
        return self.subject.kubernetes.namespace


class CallOperator(PlatformOperator):
    """
    Call the people: an incident in PagerDuty, a channel in Slack; each once, however often this runs.

    Only where the severity pages, and never in the way: what could not be reached is said, and help goes on.
    """

    def act(self, context: Context, run: Run) -> str:
        from airflow.sdk.exceptions import AirflowSkipException

        asked = asked_in(context)
        id = context["ti"].xcom_pull(task_ids=INTAKE)["incident"]
        if not id or not asked.severity.at_least(self.subject.severity.paging):
            raise AirflowSkipException(f"{asked.severity} calls nobody" if id else "the incident is not on record")
        with self.ledger() as ledger:
            for where, call in (("PagerDuty", self._page), ("Slack", self._gather)):
                try:
                    call(ledger, id)
                except Exception as unreached:
                    # Whatever a client may raise: the other way and the remedy matter more.
                    self.log.error("%s was not reached: %s", where, unreached)
                    say(context, self.log, "unreached", f"{where} was not reached: {type(unreached).__name__}")
        return str(id)

    def _page(self, ledger: Ledger, id: str) -> None:
        from upkeep.alerts.senders import REST
        from upkeep.connections import connection
        from upkeep.incident import outside
        from upkeep.incident.record import find

        found = connection(REST)
        service = str(found.extra_dejson.get("service") or "")
        with outside.pagerduty_client(found.host or "", found.password or "", found.login or "") as client:
            outside.page(client, ledger, find(ledger, id), self.subject, service)

    def _gather(self, ledger: Ledger, id: str) -> None:
        from upkeep.connections import connection
        from upkeep.hooks import slack
        from upkeep.incident import outside
        from upkeep.incident.record import find

        connection(self.subject.alerts.slack_conn_id)
        outside.gather(slack(self.subject.alerts.slack_conn_id).client, ledger, find(ledger, id), self.subject)


class EvidenceOperator(PlatformOperator):
    """
    Gather what a restart would take away, and keep it beside the reports: ``evidence.json``.

    Never stands in the way: what could not be asked is named in it.
    """

    def act(self, context: Context, run: Run) -> str:
        from upkeep.incident.evidence import summary
        from upkeep.report import storage

        asked = asked_in(context)
        found: dict[str, Any] = {"asked": asked.as_dict(), "deployments": {}, "missing": []}
        if self.subject.kubernetes:
            names = (
                [asked.deployment] if asked.deployment else [one.name for one in self.subject.kubernetes.deployments]
            )
            self._deployments(names, found)
        self._database(found)
        first = list(summary(found))
        for line in first:
            self.log.info("%s", line)
        try:
            place = storage.keep(run.platform, run.dag_id, run.run_id, "evidence.json", json.dumps(found).encode())
        except UpkeepError as refused:
            self.log.error("the evidence is only in this log: %s", refused)
            self.log.info("%s", json.dumps(found))
            return ""
        self.log.info("kept: %s", place)
        say(context, self.log, "evidence", "\n".join(first) or "nothing unusual was seen", {"kept": place})
        return place

    def _deployments(self, names: Sequence[str], found: dict[str, Any]) -> None:
        from upkeep.connections import kubernetes_client
        from upkeep.incident import evidence

        assert self.subject.kubernetes is not None
        try:
            client = kubernetes_client(self.subject.conn("kubernetes"))
        except UpkeepError as refused:
            found["missing"].append(f"kubernetes: {refused.message}")
            return
        for name in names:
            try:
                found["deployments"][name] = evidence.gather(client, self.subject.kubernetes.namespace, name)
            except UpkeepError as refused:
                found["missing"].append(f"{name}: {refused.message}")

    def _database(self, found: dict[str, Any]) -> None:
        """What its sessions do at this moment, by the health check's own questions."""
        from upkeep.connections import postgres_conninfo
        from upkeep.health import postgres

        if self.subject.postgres is None:
            return
        conn_id = self.subject.conn("postgres")
        try:
            outcomes = postgres.look(self.subject.postgres, postgres_conninfo(conn_id), conn_id=conn_id)
        except UpkeepError as refused:
            found["missing"].append(f"postgres: {refused.message}")
            return
        found["database"] = {
            outcome.check: {
                "state": outcome.state,
                "findings": [finding.summary for finding in outcome.findings],
                "reason": outcome.reason,
                "facts": json.loads(json.dumps(dict(outcome.facts), default=str)),
            }
            for outcome in outcomes
        }


class AskOperator(ApprovalOperator):
    """
    Ask a person, unless the platform file has said yes already. Silence is a no.

    Who answers must be among `approvers` of the platform file or of include/upkeep.yaml, where these name anybody.

    :param platform: name of the platform (templated).
    """

    template_fields: Sequence[str] = ("platform", "subject", "body")

    def __init__(self, *, platform: str, **kwargs: Any) -> None:
        super().__init__(defaults=self.REJECT, **kwargs)
        self.platform = platform

    def execute(self, context: Context) -> Any:
        said = context["ti"].xcom_pull(task_ids=INTAKE)
        if said["preapproved"]:
            self.log.info("The platform file has said yes to this.")
            say(context, self.log, "approved", "by the platform file")
            return {"chosen_options": [self.APPROVE], "by": "the platform file"}
        self.response_timeout = platform_of(self.platform).approvers.answer_within
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        from upkeep.settings import settings

        who = (event.get("responded_by_user") or {}).get("name") or ""
        people = platform_of(self.platform).approvers.people or settings().approvers
        if event.get("chosen_options") == [self.APPROVE] and people and who.lower() not in map(str.lower, people):
            raise AirflowFailException(
                f"{who or 'nobody known'} may not say yes to this\n"
                f"HINT: {', '.join(people)} may (`approvers` of the platform file); trigger it again and ask them."
            )
        if option := event.get("chosen_options"):
            say(context, self.log, "approved" if option == [self.APPROVE] else "refused", f"by {who or 'silence'}")
        return super().execute_complete(context, event)


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
        with ledger:
            (row,) = ledger.rows(
                "select pg_try_advisory_lock(hashtextextended('upkeep incident ' || %s, 0)) as mine", [asked.platform]
            )
            if not row["mine"]:
                raise AirflowFailException(
                    f"another remedy is at work on {asked.platform}\n"
                    "HINT: one at a time: wait for it, look whether it helped, then clear this task."
                )
            yield

    def _do(self, asked: Asked, run: Run, target: Mapping[str, Any]) -> dict[str, Any]:
        from upkeep import connections
        from upkeep.incident import cache, remedies

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
