"""
In an incident: gather evidence, ask, do one thing, and look whether it helped.

- **Runs** on request: choose the platform, what is wrong and the one action to take. `diagnose` changes nothing.
  Prometheus' Alertmanager begins it, too, with `diagnose` (platform file, `alertmanager`).
- **Touches** the ledger in `intake` (the incident and its timeline); in `call`, where the severity pages, an incident
  in PagerDuty and a channel in Slack; nothing in `evidence`. After a yes, `remedy` does one thing: replaces the Pods of
  one Deployment, raises its least number of replicas for a while, rolls it back to the revision before, clears the
  cache's allowed prefixes (never FLUSH), or has the CDN forget some addresses or tags (never everything). `helped`
  writes a canary row. `put_back` waits for the end of a scaling, without a worker, and puts back what was before.
- **Re-run** any task whenever you like: the same run never restarts twice, scales twice, or rolls back further.
- **If it fails** in `remedy`, something spoke against it: the message says what and how to go on. In `helped`, it was
  done and the platform is still ill: the message names the next step of the ladder; trigger this Dag again with it.
  One action at a time: after two you would not know which one helped.
"""

from datetime import timedelta

from airflow.sdk import DAG, Param, TriggerRule

from upkeep.incident.deeds import HelpedOperator, PutBackOperator, RemedyOperator
from upkeep.incident.operators import AskOperator, CallOperator, EvidenceOperator, IntakeOperator
from upkeep.platforms import platforms

PLATFORM = "{{ params.platform }}"
NAMES = [platform.name for platform in platforms()]

PARAMS = {
    "platform": Param(None, type="string", enum=NAMES or [""], description="Which platform is ill."),
    "severity": Param(
        "", type="string", maxLength=40, description="As the platform calls it (StudySpot's P1 is P0 elsewhere)."
    ),
    "symptom": Param(
        "unknown",
        type="string",
        enum=["unknown", "errors", "slow", "down", "since the last release", "old content"],
        description="What people see; decides which step is proposed next.",
    ),
    "description": Param("", type="string", maxLength=20_000, description="What happened, in your words."),
    "incident": Param(
        "",
        type="string",
        maxLength=100,
        description="Id of the incident it belongs to, studyspot-7; empty: by its description.",
    ),
    "action": Param(
        "diagnose",
        type="string",
        enum=["diagnose", "restart", "scale", "cache", "rollback"],
        description="The one thing to do. diagnose only looks.",
    ),
    "deployment": Param("", type="string", maxLength=63, description="For restart, scale and rollback: its name."),
    "replicas": Param(0, type="integer", minimum=0, maximum=1000, description="For scale: at least so many."),
    "minutes": Param(60, type="integer", minimum=5, maximum=1440, description="For scale: put back after this long."),
    "prefixes": Param(
        "", type="string", maxLength=1000, description="For cache: which of the allowed in Redis; empty for all."
    ),
    "addresses": Param(
        "",
        type="string",
        maxLength=50_000,
        description="For cache: what the CDN forgets instead, https://… or tag:…, a blank between them.",
    ),
    "downtime": Param(False, type="boolean", description="Whether an interruption is accepted."),
}

with DAG(
    dag_id="incident_response",
    schedule=None,
    catchup=False,
    max_active_runs=16,
    params=PARAMS,
    default_args={"owner": "upkeep", "execution_timeout": timedelta(minutes=15)},
    tags=["upkeep", "incident"],
    doc_md=__doc__,
):
    intake = IntakeOperator(task_id="intake", platform=PLATFORM)
    evidence = EvidenceOperator(task_id="evidence", platform=PLATFORM)
    call = CallOperator(task_id="call", platform=PLATFORM)
    ask = AskOperator(
        task_id="approval",
        platform=PLATFORM,
        subject="{{ params.platform }}: {{ ti.xcom_pull(task_ids='intake')['sentence'] }}?",
        body="{{ params.severity }}, {{ params.symptom }}. The log of the task `evidence` says how it stands.",
        response_timeout=timedelta(hours=1),
    )
    remedy = RemedyOperator(task_id="remedy", platform=PLATFORM)
    helped = HelpedOperator(task_id="helped", platform=PLATFORM)
    # Whatever became of it: more replicas than before cost money until somebody remembers them.
    put_back = PutBackOperator(task_id="put_back", platform=PLATFORM, trigger_rule=TriggerRule.ALL_DONE)
    intake >> [call, evidence]
    evidence >> ask >> remedy >> helped >> put_back
