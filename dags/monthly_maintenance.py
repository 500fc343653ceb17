"""
Monthly maintenance of one platform: look, delete what has expired, rebuild the indexes that are worth it, report.

- **Runs** monthly when the platform's maintenance window opens (`windows.monthly`).
- **Touches** a canary row in `health`; nothing in `settings`, which tells the dangerous ones and what has changed
  since last month, nor in `capacity`, which says what runs out and when; in `retention` rows that the platform file's
  rules have expired, archived first where they say so, in small transactions and inside a cap; in `leftovers` invalid
  indexes that interrupted rebuilds left behind; in `reindex` only bloated indexes, one at a time and concurrently.
  Tables stay readable and writable throughout.
- **Re-run** any task whenever you like: each starts from what it finds, and an index that was rebuilt is not again.
- **If it fails** open the first red task: its last lines say what was found and what to do. An index that was not
  rebuilt says who was in the way, or what was missing; nothing is lost by waiting for the next window.
- **To say yes** to a deletion beyond the cap, look at the finding `retention_plan` and trigger this Dag with the
  digest it names as `approve_plan`. With `dry_run` nothing is deleted, dropped or rebuilt.
"""

from datetime import timedelta

from airflow.sdk import DAG, Param, TriggerRule

from upkeep.capacity.operators import ForecastCapacityOperator
from upkeep.defaults import dag_defaults, postgres_pool
from upkeep.health.operators import HealthCheckOperator
from upkeep.platforms import Platform, platforms
from upkeep.postgres.advice.operators import AdviceOperator
from upkeep.postgres.reindex.operators import ChooseIndexesOperator, DropLeftoversOperator, RebuildIndexOperator
from upkeep.report.operators import SERVICES, ReportOperator
from upkeep.retention.operators import RetentionOperator
from upkeep.watcher import WatcherOperator

PARAMS = {
    "approve_plan": Param(
        "",
        type="string",
        pattern="^([0-9a-f]{64})?$",
        description="Digest of the retention plan to which you say yes, as the finding `retention_plan` names it.",
    ),
    "dry_run": Param(False, type="boolean", description="Say what would be deleted and rebuilt, and do neither."),
}


def monthly_maintenance(platform: Platform) -> None:
    window = platform.windows.monthly
    with DAG(**dag_defaults(platform, "monthly"), schedule=window.start, params=PARAMS, doc_md=__doc__):
        health = HealthCheckOperator(task_id="health", platform=platform.name, execution_timeout=timedelta(minutes=2))
        work = [health]
        if platform.postgres:
            care = {"platform": platform.name, "pool": postgres_pool(platform)}
            settings = AdviceOperator(task_id="settings", area="settings", trigger_rule=TriggerRule.ALL_DONE, **care)
            retention = RetentionOperator(
                task_id="retention",
                dry_run="{{ params.dry_run }}",
                approve_plan="{{ params.approve_plan }}",
                trigger_rule=TriggerRule.ALL_DONE,
                execution_timeout=window.length + timedelta(minutes=10),
                **care,
            )
            dry = {"dry_run": "{{ params.dry_run }}", "trigger_rule": TriggerRule.ALL_DONE}
            leftovers = DropLeftoversOperator(task_id="leftovers", **dry, **care)
            choose = ChooseIndexesOperator(task_id="choose_indexes", **dry, **care)
            reindex = RebuildIndexOperator.partial(
                task_id="reindex",
                map_index_template="{{ task.item['index'] }}",
                # The window's end cancels a rebuild that is too slow; this only ends one that hangs.
                execution_timeout=window.length + timedelta(minutes=10),
                **care,
            ).expand(item=choose.output)
            # Deleting bloats indexes, so they are chosen after it.
            health >> settings >> retention >> leftovers >> choose >> reindex
            work += [settings, retention, leftovers, choose, reindex]
        if platform.capacity:
            work.append(
                ForecastCapacityOperator(
                    task_id="capacity",
                    platform=platform.name,
                    trigger_rule=TriggerRule.ALL_DONE,
                    execution_timeout=timedelta(minutes=10),
                )
            )
            health >> work[-1]
        report = ReportOperator(
            task_id="report", platform=platform.name, sections=SERVICES, trigger_rule=TriggerRule.ALL_DONE
        )
        watcher = WatcherOperator(task_id="watcher")
        work >> report >> watcher
        work >> watcher


for platform in platforms():
    monthly_maintenance(platform)
