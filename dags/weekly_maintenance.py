"""
Weekly maintenance of one platform: look, then tell the database's owner what is worth knowing.

- **Runs** weekly when the platform's maintenance window opens (`windows.weekly`).
- **Touches** nothing but a canary row in `health`. `statistics` and `settings` read catalogs and counters, and keep in
  the ledger what those stood at, so that the next run tells what happened in between. `capacity` reads the ledger and
  says what runs out, and when. `tls` shakes hands with every address behind every name. `backup` restores a random
  older backup into a throw-away cluster on the worker; `sweep` and `remove` leave nothing of it.
- **Re-run** any task whenever you like: a run that is repeated compares with the same week again.
- **If it fails** open the first red task: its last lines say what was found and what to do. Slow queries, idle indexes
  and sizes are told in the report and turn nothing red; a setting that can lose the database does, at P0.
"""

from datetime import timedelta

from airflow.sdk import DAG, BaseOperator, TriggerRule

from upkeep.backup.operators import SweepScratchOperator, VerifyBackupOperator
from upkeep.capacity.operators import ForecastCapacityOperator
from upkeep.defaults import dag_defaults, postgres_pool
from upkeep.health.operators import HealthCheckOperator
from upkeep.platforms import Platform, platforms
from upkeep.postgres.advice.operators import AdviceOperator
from upkeep.report.operators import SERVICES, ReportOperator
from upkeep.security.operators import TlsAuditOperator
from upkeep.watcher import WatcherOperator


def weekly_maintenance(platform: Platform) -> None:
    with DAG(**dag_defaults(platform, "weekly"), schedule=platform.windows.weekly.start, doc_md=__doc__):
        health = HealthCheckOperator(task_id="health", platform=platform.name, execution_timeout=timedelta(minutes=2))
        areas = []
        if platform.postgres:
            areas += [
                AdviceOperator(
                    task_id=area,
                    area=area,
                    platform=platform.name,
                    pool=postgres_pool(platform),
                    trigger_rule=TriggerRule.ALL_DONE,
                    execution_timeout=timedelta(minutes=10),
                )
                for area in ("statistics", "settings")
            ]
        if platform.capacity:
            areas.append(
                ForecastCapacityOperator(
                    task_id="capacity",
                    platform=platform.name,
                    trigger_rule=TriggerRule.ALL_DONE,
                    execution_timeout=timedelta(minutes=10),
                )
            )
        if platform.certificates:
            areas.append(
                TlsAuditOperator(
                    task_id="tls",
                    platform=platform.name,
                    trigger_rule=TriggerRule.ALL_DONE,
                    execution_timeout=timedelta(minutes=5),
                )
            )
        report = ReportOperator(
            task_id="report", platform=platform.name, sections=SERVICES, trigger_rule=TriggerRule.ALL_DONE
        )
        watcher = WatcherOperator(task_id="watcher")
        if platform.backup and platform.backup.database:
            for task in older_backup(platform):
                task >> [report, watcher]
        health >> areas >> report >> watcher
        [health, *areas] >> watcher


def older_backup(platform: Platform) -> list[BaseOperator]:
    """A random older backup is restored and compared, however the platform is: the newest is every night."""
    sweep = SweepScratchOperator(task_id="sweep", platform=platform.name, execution_timeout=timedelta(minutes=15))
    backup = VerifyBackupOperator(
        task_id="backup",
        platform=platform.name,
        tier="content",
        older=True,
        execution_timeout=platform.windows.weekly.length,
    )
    remove = SweepScratchOperator(task_id="remove", platform=platform.name, execution_timeout=timedelta(minutes=15))
    sweep >> backup >> remove.as_teardown(setups=sweep, on_failure_fail_dagrun=True)
    return [backup, remove]


for platform in platforms():
    weekly_maintenance(platform)
