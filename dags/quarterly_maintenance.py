"""
Quarterly maintenance of one platform: recovery is rehearsed, timed, and held against what is promised.

- **Runs** quarterly when the platform's maintenance window opens (`windows.quarterly`), for platforms with a section
  `recovery`.
- **Touches** in `restoration`, `restoration_older` and `point_in_time` nothing but a throw-away database cluster on the
  worker. `failover` kills the primary of the streaming pair that connection `{platform}_failover` names, promotes its
  standby and makes the old primary a standby; `application` loses Pods of the deployments, raises and lowers their
  replicas within their bounds and puts back what was. Both are in staging (`recovery.drill.where`); in production only
  after a yes in `ask`, inside the window, with nothing open, everything whole and a backup verified in the last day.
- **Re-run** any task whenever you like: what a killed one left is put back first, and one drill runs at a time.
- **If it fails** open the red task: its button *Drill* shows the page of that drill with each step and what is to do. A
  drill that was refused says by what. `settle` red means that something is not as it was: its message names it.
"""

from datetime import timedelta

from airflow.sdk import DAG, TriggerRule

from upkeep.defaults import dag_defaults, postgres_pool
from upkeep.drill.breaking import ApplicationDrillOperator, FailoverDrillOperator
from upkeep.drill.operators import ASK, AskDrillOperator, DrillJanitorOperator, RestorationDrillOperator
from upkeep.platforms import Platform, platforms
from upkeep.report.operators import ReportOperator
from upkeep.watcher import WatcherOperator


def quarterly_maintenance(platform: Platform) -> None:
    rules = platform.recovery.drill
    with DAG(**dag_defaults(platform, "quarterly"), schedule=platform.windows.quarterly.start, doc_md=__doc__):
        prepare = DrillJanitorOperator(task_id="prepare", platform=platform.name)
        ask = AskDrillOperator(
            task_id=ASK,
            platform=platform.name,
            subject="{{ ti.xcom_pull(task_ids='prepare')['subject'] }}",
            body="{{ ti.xcom_pull(task_ids='prepare')['body'] }}",
            response_timeout=timedelta(days=1),
        )
        # A drill that lasts longer is broken off, and puts back what it has changed.
        usual = {"platform": platform.name, "execution_timeout": rules.most, "trigger_rule": TriggerRule.ALL_DONE}
        restorations = []
        if platform.backup.database or platform.backup.cluster:
            restorations.append(RestorationDrillOperator(task_id="restoration", which="newest", **usual))
            restorations.append(RestorationDrillOperator(task_id="restoration_older", which="older", **usual))
        if platform.backup.cluster:
            restorations.append(RestorationDrillOperator(task_id="point_in_time", which="point_in_time", **usual))
        breaking = []
        if rules.failover != "none":
            breaking.append(FailoverDrillOperator(task_id="failover", pool=postgres_pool(platform), **usual))
        if platform.kubernetes and platform.kubernetes.deployments:
            breaking.append(ApplicationDrillOperator(task_id="application", **usual))
        settle = DrillJanitorOperator(task_id="settle", platform=platform.name, execution_timeout=rules.most)
        report = ReportOperator(
            task_id="report", platform=platform.name, sections=(), trigger_rule=TriggerRule.ALL_DONE
        )
        watcher = WatcherOperator(task_id="watcher")
        acts = [*restorations, *breaking]
        if acts:
            # Airflow lets nothing but plain tasks follow a set-up task.
            acts[0].trigger_rule = TriggerRule.ALL_SUCCESS
        prepare >> ask
        # One after the other: a backup that cannot be restored forbids to break anything.
        previous = prepare
        for act in acts:
            previous >> act
            previous = act
        ask >> breaking
        previous >> settle.as_teardown(setups=prepare, on_failure_fail_dagrun=True)
        [ask, *acts, settle] >> report >> watcher
        [ask, *acts, settle] >> watcher


for platform in platforms():
    if platform.recovery:
        quarterly_maintenance(platform)
