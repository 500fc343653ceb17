"""The tasks of `incident_response` before anything is done: read the form, call people, gather evidence, ask."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from upkeep.approval import AskPersonOperator
from upkeep.errors import LedgerError, SettingsError, UpkeepError
from upkeep.operators import PlatformOperator

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
        from upkeep.incident.record import declare, join, note

        actor = getattr(context.get("dag_run"), "triggering_user_name", None) or "somebody"
        title = asked.description[:200] or f"{asked.symptom} on {self.subject.title}"
        joined = str(context["params"].get("incident") or "").strip()
        try:
            with self.ledger() as ledger:
                ledger.plan(run, "incident", [item])
                if joined:
                    incident, new = join(ledger, self.subject, joined), False
                else:
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

    Only where the severity pages. It stands beside the remedy and never in its way; red when somebody was not reached.
    """

    def act(self, context: Context, run: Run) -> str:
        from airflow.sdk.exceptions import AirflowSkipException

        asked = asked_in(context)
        id = context["ti"].xcom_pull(task_ids=INTAKE)["incident"]
        if not id or not asked.severity.at_least(self.subject.severity.paging):
            raise AirflowSkipException(f"{asked.severity} calls nobody" if id else "the incident is not on record")
        unreached = []
        with self.ledger() as ledger:
            for where, call in (("PagerDuty", self._page), ("Slack", self._gather)):
                try:
                    call(ledger, id)
                except SettingsError as missing:
                    self.log.warning("%s is not called: %s", where, missing.message)
                except LedgerError:
                    raise
                except Exception as trouble:
                    # Whatever a client may raise: the other way is tried all the same.
                    self.log.error("%s was not reached: %s", where, trouble)
                    say(context, self.log, "unreached", f"{where} was not reached: {type(trouble).__name__}")
                    unreached.append(where)
        if unreached:
            raise AirflowFailException(
                f"{id} did not reach {' and '.join(unreached)}\n"
                "HINT: call the people yourself, then clear this task: nothing is made twice."
            )
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


class AskOperator(AskPersonOperator):
    """Ask a person, unless the platform file has said yes already."""

    def agreed(self, context: Context) -> str:
        return "the platform file" if context["ti"].xcom_pull(task_ids=INTAKE)["preapproved"] else ""

    def say(self, context: Context, kind: str, said: str) -> None:
        say(context, self.log, kind, said)
