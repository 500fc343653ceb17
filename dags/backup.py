"""
The backup of one platform each night, and its verification as soon as it is there.

- **Runs** `{platform}_backup` nightly (`windows.backup`); `{platform}_backup_verification` when a backup of the
  database was made. By hand the verification takes the id of a backup; empty means the newest. Where the whole cluster
  is backed up too (`backup.cluster`), `{platform}_cluster_verification` follows its base backup, and
  `{platform}_cluster_log` fetches its log every few minutes.
- **Touches** the bucket of backups; `retention` marks there what is past its time, and deletes it a day later, by the
  platform file's rules and inside their cap. The database is read in one snapshot, and its tables stay readable and
  writable; only changes of their shape wait. Copies of files are never replaced or deleted. The verification restores
  into a throw-away cluster on the worker, and removes it. `trail` looks whether the record of what was done is as it
  was written, and leaves a witness of it in the bucket.
- **Re-run** any task whenever you like: a backup counts only when its manifest is there, which is written last.
- **If it fails** yesterday's backup stands. The red task says what is wrong and what to do; a broken backup is never
  counted, and the next one is made whatever became of this.
- **To say yes** to deleting more backups than the cap allows (finding `backup_retention`), or to many files that have
  gone (finding `backup_files`), trigger `{platform}_backup` with the digest that it names as `approve_plan`. With
  `dry_run` nothing is marked or deleted.
"""

from datetime import timedelta

from airflow.sdk import DAG, Asset, Param, TriggerRule

from upkeep.backup.configuration.operators import BackupConfigurationOperator
from upkeep.backup.files.operators import BackupFilesOperator
from upkeep.backup.operators import BackupDatabaseOperator, SweepScratchOperator, VerifyBackupOperator
from upkeep.backup.physical.operators import (
    ArchiveLogOperator,
    BackupClusterOperator,
    LogRetentionOperator,
    VerifyClusterOperator,
)
from upkeep.backup.retention.operators import BackupFreshnessOperator, BackupRetentionOperator
from upkeep.defaults import dag_defaults, postgres_pool
from upkeep.platforms import Platform, platforms
from upkeep.report.operators import ReportOperator
from upkeep.trail.operators import TrailOperator
from upkeep.watcher import WatcherOperator

PARAMS = {
    "approve_plan": Param(
        "",
        type="string",
        pattern="^([0-9a-f]{64})?$",
        description="Digest of the plan to which you say yes, as the finding that asks for it names it.",
    ),
    "dry_run": Param(False, type="boolean", description="Say which backups would be deleted, and delete none."),
}


def backup(platform: Platform, made: Asset, copied: Asset) -> None:
    with DAG(
        **{**dag_defaults(platform, "backup"), "dag_id": f"{platform.name}_backup"},
        schedule=platform.windows.backup.start,
        params=PARAMS,
        doc_md=__doc__,
    ):
        length = platform.windows.backup.length
        makers = []
        if platform.backup.database:
            database = BackupDatabaseOperator(
                task_id="database",
                platform=platform.name,
                pool=postgres_pool(platform),
                outlets=[made],
                execution_timeout=length,
            )
            makers.append(database)
        if platform.backup.cluster:
            cluster = BackupClusterOperator(
                task_id="cluster",
                platform=platform.name,
                pool=postgres_pool(platform),
                outlets=[copied],
                execution_timeout=length,
            )
            makers.append(cluster)
        if platform.backup.files:
            files = BackupFilesOperator(
                task_id="files",
                platform=platform.name,
                approve_plan="{{ params.approve_plan }}",
                execution_timeout=length,
            )
            makers.append(files)
        if platform.backup.configuration:
            configuration = BackupConfigurationOperator(
                task_id="configuration", platform=platform.name, execution_timeout=length
            )
            makers.append(configuration)
        # Whatever failed tonight: retention stops by itself when backups have stopped.
        after = {"platform": platform.name, "trigger_rule": TriggerRule.ALL_DONE}
        retention = BackupRetentionOperator(
            task_id="retention",
            dry_run="{{ params.dry_run }}",
            approve_plan="{{ params.approve_plan }}",
            **after,
        )
        letting_go = [retention]
        if platform.backup.cluster:
            letting_go.append(LogRetentionOperator(task_id="log_retention", dry_run="{{ params.dry_run }}", **after))
            retention >> letting_go[-1]
        freshness = BackupFreshnessOperator(
            task_id="backup_freshness", execution_timeout=timedelta(minutes=10), **after
        )
        trail = TrailOperator(task_id="trail", execution_timeout=timedelta(minutes=30), **after)
        report = ReportOperator(task_id="report", sections=(), **after)
        watcher = WatcherOperator(task_id="watcher")
        makers >> retention
        letting_go >> freshness >> trail >> report >> watcher
        [*makers, *letting_go, freshness, trail] >> watcher


def verification(platform: Platform, part: str, made: Asset, verifies: type[VerifyBackupOperator]) -> None:
    with DAG(
        **{**dag_defaults(platform, "backup"), "dag_id": f"{platform.name}_{part}_verification"},
        schedule=[made],
        params={"backup": Param("", type="string", maxLength=40, description="Id of a backup; empty for the newest.")},
        doc_md=__doc__,
    ):
        which = "{{ params.backup }}"
        sweep = SweepScratchOperator(task_id="sweep", platform=platform.name, execution_timeout=timedelta(minutes=15))
        read = verifies(
            task_id="bytes",
            platform=platform.name,
            tier="bytes",
            backup=which,
            execution_timeout=platform.windows.backup.length,
        )
        restore = verifies(
            task_id="content",
            platform=platform.name,
            tier="content",
            backup=which,
            execution_timeout=platform.windows.backup.length,
        )
        remove = SweepScratchOperator(task_id="remove", platform=platform.name, execution_timeout=timedelta(minutes=15))
        report = ReportOperator(
            task_id="report", platform=platform.name, sections=(), trigger_rule=TriggerRule.ALL_DONE
        )
        watcher = WatcherOperator(task_id="watcher")
        read >> restore
        sweep >> restore >> remove.as_teardown(setups=sweep, on_failure_fail_dagrun=True)
        [read, restore, remove] >> report >> watcher
        # Airflow lets nothing but plain tasks follow a set-up task; when `sweep` fails, `content` is upstream-failed.
        [read, restore, remove] >> watcher


def cluster_log(platform: Platform) -> None:
    minutes = int(platform.backup.cluster.log_every.total_seconds() // 60)
    with DAG(
        **{**dag_defaults(platform, "backup"), "dag_id": f"{platform.name}_cluster_log"},
        schedule=f"*/{minutes} * * * *" if minutes < 60 else "0 * * * *",
        doc_md=__doc__,
    ):
        # In no pool: the log is fetched whatever else works on the server.
        ArchiveLogOperator(task_id="log", platform=platform.name, execution_timeout=timedelta(minutes=30))


for platform in platforms():
    if platform.backup:
        made, copied = Asset(f"{platform.name}_database_backup"), Asset(f"{platform.name}_cluster_backup")
        backup(platform, made, copied)
        if platform.backup.database:
            verification(platform, "backup", made, VerifyBackupOperator)
        if platform.backup.cluster:
            verification(platform, "cluster", copied, VerifyClusterOperator)
            cluster_log(platform)
