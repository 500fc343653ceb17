"""
Daily maintenance of one platform: look, tidy up, care for the database, report.

- **Runs** daily when the platform's maintenance window opens (`windows.daily`).
- **Touches** nothing in `health` but a canary row, and nothing in `capacity`, which keeps a sample a day of all that
  can run out; deletes expired logs and finished Jobs by the platform file's
  rules; vacuums and analyzes only the tables that need it. Tables stay readable and writable throughout.
- **Re-run** any task whenever you like: each starts from what it finds. A backfill of missed days does once what
  counts for all of them, and a report for each.
- **If it fails** open the first red task: its last lines say what was found and what to do. The report has it all.
  A red area does not stop the others; a dead database skips its own care and says so.
"""

from datetime import timedelta

from airflow.sdk import DAG, TriggerRule

from upkeep.backup.retention.operators import BackupFreshnessOperator
from upkeep.capacity.operators import SampleCapacityOperator
from upkeep.cleanup.operators import CleanupOperator
from upkeep.defaults import dag_defaults, postgres_pool
from upkeep.health.operators import HealthCheckOperator
from upkeep.logs.operators import LogRetentionOperator
from upkeep.platforms import Platform, platforms
from upkeep.postgres.operators import ChooseTablesOperator, FinishVacuumOperator, VacuumTableOperator
from upkeep.report.operators import ReportOperator
from upkeep.watcher import WatcherOperator


def daily_maintenance(platform: Platform) -> None:
    with DAG(**dag_defaults(platform, "daily"), schedule=platform.windows.daily.start, doc_md=__doc__):
        health = HealthCheckOperator(task_id="health", platform=platform.name, execution_timeout=timedelta(minutes=2))
        areas = []
        if platform.hosts:
            areas.append(
                LogRetentionOperator(task_id="logs", platform=platform.name, trigger_rule=TriggerRule.ALL_DONE)
            )
        if platform.postgres:
            choose = ChooseTablesOperator(
                task_id="choose_tables",
                platform=platform.name,
                pool=postgres_pool(platform),
                trigger_rule=TriggerRule.ALL_DONE,
            )
            areas.append(choose)
            vacuum = VacuumTableOperator.partial(
                task_id="vacuum",
                platform=platform.name,
                pool=postgres_pool(platform),
                map_index_template="{{ task.need['table'] }}",
                # The brake may wait for the whole window; what then runs has a time-out of its own.
                execution_timeout=platform.windows.daily.length + platform.postgres.vacuum.statement_timeout,
            ).expand(need=choose.output)
        if platform.backup:
            # Not only where backups are made: what is not made at all says nothing.
            areas.append(
                BackupFreshnessOperator(
                    task_id="backup_freshness",
                    platform=platform.name,
                    execution_timeout=timedelta(minutes=10),
                    trigger_rule=TriggerRule.ALL_DONE,
                )
            )
        if platform.capacity:
            areas.append(
                SampleCapacityOperator(
                    task_id="capacity",
                    platform=platform.name,
                    execution_timeout=timedelta(minutes=10),
                    trigger_rule=TriggerRule.ALL_DONE,
                )
            )
        areas.append(CleanupOperator(task_id="cleanup", platform=platform.name, trigger_rule=TriggerRule.ALL_DONE))
        report = ReportOperator(task_id="report", platform=platform.name, trigger_rule=TriggerRule.ALL_DONE)
        watcher = WatcherOperator(task_id="watcher")
        health >> areas >> report >> watcher
        if platform.postgres:
            # One pass over the catalog after all tables, instead of one per table.
            finish = FinishVacuumOperator(
                task_id="finish_vacuum",
                platform=platform.name,
                pool=postgres_pool(platform),
                trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS,
            )
            choose >> vacuum >> finish >> report
            [vacuum, finish] >> watcher
        [health, *areas] >> watcher


for platform in platforms():
    daily_maintenance(platform)
