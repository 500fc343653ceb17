"""
Bring a platform's database back from a backup: into a new one beside it, proved, then, after a yes, in its place.

- **Runs** on request, with a form: the platform and, if it is to be another than the newest verified backup, its id or
  a point in time. `beside` (the usual) only makes the new database; `replace` asks a person, then swaps. `swap back`
  undoes a swap as long as the old database is there; `drop the old one` ends that. Both ask first, too.
- **Touches** the platform's database server: a new database `…_upkeep_restore_…`, into which the dump is streamed, and
  in which is deleted again what was deleted for good since. `swap` ends the sessions and changes two names in one
  transaction: new sessions wait for seconds. The old database stays as `…_before_…`; nothing is ever loaded into it.
- **Re-run** any task whenever you like: `load` begins anew, `swap` is done once. Killed anywhere, the living database
  is either what it was or what it was to become.
- **If it fails** before `swap`, nothing of the living database was touched: the message says what spoke against it;
  mend that and clear the task, or choose another backup. In `checked`, the swap is done and something is ill: trigger
  this again with `swap back` and the restore's id.
"""

from datetime import timedelta

from airflow.sdk import DAG, Param, TriggerRule

from upkeep.backup.restore.deeds import (
    AskOperator,
    CheckedOperator,
    QuestionOperator,
    SettleOperator,
    SwapOperator,
)
from upkeep.backup.restore.operators import (
    ChooseOperator,
    EraseAgainOperator,
    LoadOperator,
    ProveOperator,
    RoomOperator,
)
from upkeep.platforms import platforms
from upkeep.report.operators import ReportOperator
from upkeep.watcher import WatcherOperator

PLATFORM = "{{ params.platform }}"
NAMES = [
    platform.name
    for platform in platforms()
    if platform.backup and platform.backup.database and platform.backup.database.restore
]
LONG = timedelta(hours=12)

PARAMS = {
    "platform": Param(None, type="string", enum=NAMES or [""], description="Whose database."),
    "action": Param(
        "restore",
        type="string",
        enum=["restore", "swap back", "drop the old one"],
        description="swap back and drop the old one need the id of a restore.",
    ),
    "backup": Param(
        "", type="string", maxLength=40, description="Id of a backup; empty for the newest that is content-verified."
    ),
    "at": Param(
        "",
        type="string",
        maxLength=40,
        description="Or a point in time, ISO 8601, UTC: the newest backup of before it; what came between is lost.",
    ),
    "place": Param(
        "beside",
        type="string",
        enum=["beside", "replace"],
        description="beside: a new database and nothing else. replace: then in the place of the living one, if somebody"
        " says yes.",
    ),
    "if_refused": Param(
        "remove",
        type="string",
        enum=["remove", "keep"],
        description="What becomes of the new database when the answer is no, or nobody answers.",
    ),
    "restore": Param(
        "", type="string", maxLength=40, description="For swap back and drop the old one: the id of that restore."
    ),
}

with DAG(
    dag_id="restore",
    schedule=None,
    catchup=False,
    max_active_runs=16,
    params=PARAMS,
    default_args={"owner": "upkeep", "execution_timeout": timedelta(hours=1)},
    tags=["upkeep", "backup"],
    doc_md=__doc__,
):
    choose = ChooseOperator(task_id="choose", platform=PLATFORM)
    room = RoomOperator(task_id="room", platform=PLATFORM)
    load = LoadOperator(task_id="load", platform=PLATFORM, execution_timeout=LONG)
    prove = ProveOperator(task_id="prove", platform=PLATFORM, execution_timeout=LONG)
    erase = EraseAgainOperator(task_id="erase_again", platform=PLATFORM, execution_timeout=LONG)
    # A way back restores nothing: those before are skipped, and the question is asked all the same.
    question = QuestionOperator(
        task_id="question", platform=PLATFORM, trigger_rule=TriggerRule.NONE_FAILED, execution_timeout=LONG
    )
    ask = AskOperator(
        task_id="approval",
        platform=PLATFORM,
        subject="{{ ti.xcom_pull(task_ids='question')['subject'] }}",
        body="{{ ti.xcom_pull(task_ids='question')['body'] }}",
        response_timeout=timedelta(hours=1),
    )
    swap = SwapOperator(task_id="swap", platform=PLATFORM)
    checked = CheckedOperator(task_id="checked", platform=PLATFORM, execution_timeout=LONG)
    settle = SettleOperator(task_id="settle", platform=PLATFORM, trigger_rule=TriggerRule.ALL_DONE)
    report = ReportOperator(task_id="report", platform=PLATFORM, sections=(), trigger_rule=TriggerRule.ALL_DONE)
    watcher = WatcherOperator(task_id="watcher")
    choose >> room >> load >> prove >> erase >> question >> ask >> swap >> checked >> settle >> report
    # Not the approval itself: a no skips whatever follows it directly.
    [choose, room, load, prove, erase, question, swap, checked, settle] >> watcher
