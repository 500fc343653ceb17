"""The tasks of `incident_update`: into the record, the draft of the review, PagerDuty, Slack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from upkeep.errors import SettingsError, UpkeepError
from upkeep.operators import PlatformOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.incident.progress import Step
    from upkeep.incident.record import Incident
    from upkeep.ledger import Ledger, Run


class StepOperator(PlatformOperator):
    """Base of the four: the form read strictly, and what a person can mend said in one message."""

    def act(self, context: Context, run: Run) -> Any:
        from upkeep.incident import progress

        actor = getattr(context.get("dag_run"), "triggering_user_name", None) or "somebody"
        try:
            step = progress.read(self.subject, context["params"], actor=actor, run=run.run_id)
            with self.ledger() as ledger:
                return self.go(context, run, ledger, step)
        except (AirflowSkipException, AirflowFailException, SettingsError):
            raise
        except UpkeepError as refused:
            raise AirflowFailException(str(refused)) from refused

    def go(self, context: Context, run: Run, ledger: Ledger, step: Step) -> Any:
        """This task's part."""
        raise NotImplementedError

    def incident(self, ledger: Ledger, step: Step) -> Incident:
        from upkeep.incident.record import find

        return find(ledger, step.id)


class RecordStepOperator(StepOperator):
    """The state and the line in the timeline, once, however often it runs."""

    def go(self, context: Context, run: Run, ledger: Ledger, step: Step) -> str:
        from upkeep.incident import progress

        incident = progress.go_on(ledger, self.subject, step)
        self.log.info("%s is %s: %s", incident.id, incident.state, incident.title)
        return incident.id


class DraftReviewOperator(StepOperator):
    """What happened, from the timeline, as a document that people complete; kept beside the reports."""

    def go(self, context: Context, run: Run, ledger: Ledger, step: Step) -> str:
        from upkeep.incident import progress, review
        from upkeep.incident.record import note, timeline
        from upkeep.report import storage

        incident = self.incident(ledger, step)
        if incident.state not in ("resolved", "review") or not progress.reviewed(self.subject, incident):
            raise AirflowSkipException(f"{incident.id} is {incident.state}: there is no review to write")
        rows = timeline(ledger, incident.id)
        text = review.document(self.subject, incident, rows)
        link = storage.keep(run.platform, run.dag_id, run.run_id, "review.md", text.encode())
        if not any(row["facts"].get("kept") == link for row in rows):
            note(ledger, incident.id, "upkeep", "review drafted", link, {"kept": link})
        self.log.info("the draft of the review: %s", link)
        return link


class TellPagerdutyOperator(StepOperator):
    """PagerDuty's incident into the same state."""

    def go(self, context: Context, run: Run, ledger: Ledger, step: Step) -> str:
        import httpx

        from upkeep.alerts.senders import REST
        from upkeep.connections import connection
        from upkeep.incident import outside, progress

        incident = self.incident(ledger, step)
        if not incident.pagerduty_id:
            raise AirflowSkipException(f"{incident.id} was never in PagerDuty")
        found = connection(REST)
        service = str(found.extra_dejson.get("service") or "")
        try:
            with outside.pagerduty_client(found.host or "", found.password or "", found.login or "") as client:
                return progress.tell_pagerduty(client, ledger, self.subject, incident, service)
        except httpx.HTTPError as away:
            raise AirflowFailException(
                f"PagerDuty was not reached: {type(away).__name__}\nHINT: clear this task when it is back."
            ) from away


class TellChannelOperator(StepOperator):
    """The incident's own channel: its topic, what was said, and its archive at the close."""

    def go(self, context: Context, run: Run, ledger: Ledger, step: Step) -> str:
        from slack_sdk.errors import SlackApiError, SlackClientError

        from upkeep.alerts.redact import redact
        from upkeep.connections import connection
        from upkeep.hooks import slack
        from upkeep.incident import progress

        incident = self.incident(ledger, step)
        if not incident.channel_id:
            raise AirflowSkipException(f"{incident.id} has no channel")
        conn_id = self.subject.alerts.slack_conn_id
        connection(conn_id)
        link = context["ti"].xcom_pull(task_ids="review") or ""
        try:
            return progress.tell_slack(slack(conn_id).client, ledger, self.subject, incident, step, link)
        except (SlackApiError, SlackClientError, OSError) as away:
            raise AirflowFailException(
                f"#{incident.channel_name} was not told: {redact(str(away))}\n"
                "HINT: clear this task when Slack is back; nothing is said twice."
            ) from away
