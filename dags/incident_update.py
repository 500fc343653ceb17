"""
A declared incident goes on: somebody has it, it is mitigated, over, reviewed, closed; or how it stands is said.

- **Runs** on request: choose the platform, give the incident's id (`studyspot-7`, it stands in its channel's topic).
- **Touches** the ledger in `record` (state and timeline); the incident in PagerDuty; its channel in Slack, which is
  archived at the close; and where its severity ends with a review, `review` keeps a draft of it beside the reports.
- **Re-run** any task whenever you like: nothing is said twice.
- **If it fails** in `record`, that state does not follow or there is no such incident: the message says what does
  follow. In `pagerduty` or `slack`, it was not reached: the record is right already; clear the task when it is back.
"""

from datetime import timedelta

from airflow.sdk import DAG, Param, TriggerRule

from upkeep.incident.update import (
    DraftReviewOperator,
    RecordStepOperator,
    TellChannelOperator,
    TellPagerdutyOperator,
)
from upkeep.platforms import platforms

PLATFORM = "{{ params.platform }}"
NAMES = [platform.name for platform in platforms()]

PARAMS = {
    "platform": Param(None, type="string", enum=NAMES or [""], description="Whose incident."),
    "incident": Param("", type="string", minLength=1, maxLength=100, description="Its id: studyspot-7."),
    "becomes": Param(
        "",
        type="string",
        enum=["", "acknowledged", "mitigated", "resolved", "review", "closed"],
        description="What it is from now on; empty: only how it stands is said.",
    ),
    "said": Param("", type="string", maxLength=20_000, description="How it stands, in your words."),
}

with DAG(
    dag_id="incident_update",
    schedule=None,
    catchup=False,
    max_active_runs=16,
    params=PARAMS,
    default_args={"owner": "upkeep", "execution_timeout": timedelta(minutes=5)},
    tags=["upkeep", "incident"],
    doc_md=__doc__,
):
    record = RecordStepOperator(task_id="record", platform=PLATFORM)
    review = DraftReviewOperator(task_id="review", platform=PLATFORM)
    pagerduty = TellPagerdutyOperator(task_id="pagerduty", platform=PLATFORM)
    # The draft may be missing (no review, or no storage): the channel is told all the same.
    slack = TellChannelOperator(task_id="slack", platform=PLATFORM, trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)
    record >> [review, pagerduty]
    [record, review] >> slack
