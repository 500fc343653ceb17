"""Every fault that the live tests inject, and what the daily Dags must make of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Expected:
    """What one fault must lead to."""

    platform: str
    fault: str
    key: str
    severity: str
    says: str
    """Regular expression that the finding's summary matches: its numbers."""

    @property
    def alert(self) -> str:
        return f"{self.platform}/{self.key}"


def studyspot(fault: str, key: str, severity: str, says: str) -> Expected:
    return Expected("studyspot", f"studyspot_{fault}", key, severity, says)


def adaptive_learning(fault: str, key: str, severity: str, says: str) -> Expected:
    return Expected("adaptive_learning", f"adaptive_learning_{fault}", key, severity, says)


# Faults that do not hide each other are broken together, on both platforms at once.
BATCHES: dict[str, list[Expected]] = {
    "services answer wrongly": [
        studyspot("endpoint_500", "http/api", "P0", r"500"),
        studyspot("web_degraded", "http/web", "P0", r"StudySpot"),
        studyspot("redis_memory_full", "redis_memory", "P1", r"9\d"),
        studyspot("redis_misses", "redis_hit_rate", "P3", r"\d%"),
        studyspot("standby_down", "postgres_replication", "P1", r"0 of 1|no standby|missing"),
        studyspot("idle_in_transaction", "postgres_idle_in_transaction/api idle_in_transaction", "P2", r"\d"),
        studyspot("long_query", "postgres_long_queries/api long_query", "P2", r"1 statement .* longer than \d"),
        studyspot("inactive_slot", "postgres_slots/sandbox_abandoned", "P1", r"holds back \d+\.\d MiB"),
        studyspot("table_missing", "postgres_tables/seats", "P2", r"no table seats"),
        studyspot("pod_crashloop", "pods/studyspot-api", "P1", r"(?i)crash"),
        studyspot("pod_crashloop", "deployments/studyspot-api", "P1", r"2 of 3 replicas"),
        studyspot("node_busy", "usage/node-2/cpu", "P2", r"97%"),
        studyspot("image_gc", "image_gc/node-2", "P3", r"98% down to 95%"),
        studyspot("disk_nearly_full", "disk/db-0:9100:/var/lib/postgresql", "P1", r"95"),
        studyspot("logs_flood", "logs//var/log/studyspot", "P2", r"\d+"),
        adaptive_learning("consumer_stuck", "kafka_lag/scheduler-service/attempts.events", "P1", r"9\d\d,\d{3}"),
        adaptive_learning("consumer_gone", "kafka_lag/mastery-updater/mastery.updates", "P1", r"[\d,]+ messages wait"),
        adaptive_learning("topic_retention", "kafka_retention/notifications", "P3", r"for ever"),
        adaptive_learning("pod_crashloop", "pods/user-service", "P1", r"(?i)crash"),
        adaptive_learning("disk_nearly_full", "disk/db-0:9100:/var/lib/postgresql", "P1", r"95"),
        adaptive_learning("memory_high", "memory/db-0:9100", "P2", r"93"),
        adaptive_learning("endpoint_500", "http/api", "P0", r"500"),
    ],
    "services are short of something": [
        studyspot("endpoint_hangs", "http/api", "P0", r"\d"),
        studyspot("redis_wrong_password", "redis_connect", "P0", r"(?i)password|auth"),
        studyspot("connections_full", "postgres_connections", "P1", r"\d+ of \d+"),
        studyspot("read_only", "postgres_write", "P0", r"read-only transaction"),
        studyspot("node_disk_pressure", "nodes/node-2", "P1", r"DiskPressure"),
        studyspot("service_without_endpoints", "services/studyspot-web", "P1", r"(?i)no ready"),
        studyspot("memory_high", "memory/db-0:9100", "P2", r"93"),
        studyspot("logs_missing", "logs//var/log/studyspot", "P2", r"/var/log/studyspot"),
        adaptive_learning("offline_partition", "kafka_brokers/offline_partitions", "P1", r"1 of 9 partitions"),
        adaptive_learning("endpoint_slow", "http/api", "P3", r"1\.\d+ s"),
        adaptive_learning("web_500", "http/app", "P0", r"500"),
    ],
    "services are gone": [
        studyspot("certificate_expired", "tls/api.studyspot.com:443", "P0", r"(?i)expired"),
        studyspot("postgres_down", "postgres_connect", "P0", r"(?i)refused"),
        studyspot("redis_down", "redis_connect", "P0", r"(?i)refused"),
        Expected("studyspot", "kubernetes_down", "kubernetes_api", "P1", r"(?i)refused"),
        Expected("studyspot", "prometheus_down", "disk", "P1", r"(?i)could not look.*refused"),
        Expected("studyspot", "prometheus_down", "capacity_sample/volumes", "P3", r"(?i)could not look.*refused"),
        Expected("adaptive_learning", "kubernetes_down", "kubernetes_api", "P1", r"(?i)refused"),
        adaptive_learning("kafka_down", "kafka_brokers/brokers", "P1", r"(?i)broker"),
        adaptive_learning("postgres_down", "postgres_connect", "P0", r"(?i)refused"),
    ],
    "servers wear out": [
        # First, so that no other session's snapshot is older.
        studyspot("old_snapshot", "postgres_old_snapshot", "P3", r"slot \S+ .*1,0\d\d,\d{3} transactions behind"),
        studyspot("old_snapshot", "postgres_vacuum/public.bookings", "P3", r"left [\d,]+ of [\d,]+ dead rows: slot"),
        studyspot("blocked_query", "postgres_blocked/api blocked_query", "P2", r"makes [12] sessions? wait .* \d+ s$"),
        studyspot("redis_clients", "redis_clients", "P2", r"9\d of 100 clients"),
        studyspot("redis_snapshot_fails", "redis_persistence/snapshot", "P0", r"failed; \d+ changes .* every write"),
        studyspot("jobs_flood", "jobs", "P2", r"nothing was deleted: 60 of \d+ Jobs and Pods are due"),
        Expected("studyspot", "hosts_tmp_missing", "temporary_files//tmp/studyspot-*", "P2", r"there is no /tmp"),
        adaptive_learning("transaction_ids", "postgres_wraparound/adaptive_learning", "P1", r"51\.\d% .*1,1\d\d,"),
        adaptive_learning("vacuum_forbidden", "postgres_vacuum_rights", "P2", r"\d of \d tables .*public\.attempts"),
        adaptive_learning("group_hidden", "kafka_group/mastery-updater", "P1", r"(?i)could not look.*authorization"),
        adaptive_learning("group_hidden", "kafka_lag/mastery-updater/mastery.updates", "P1", r"(?i)authorization"),
        adaptive_learning(
            "log_directory_failed", "kafka_log_dirs/2/var/lib/kafka/data-1", "P1", r"broker 2 is offline \(error 56\)"
        ),
        adaptive_learning("old_client", "backup_client", "P1", r"pg_dump on this worker is 17\.\d+, .* version 18"),
    ],
    "somebody changed something": [
        studyspot("connection_to_standby", "postgres_primary", "P0", r"a standby .* not the primary"),
        studyspot("backups_lost", "backup_age/configuration", "P1", r"\d on record, and none of them"),
        studyspot("backups_lost", "backup_verified/configuration", "P1", r"no content-verified .*\d on record"),
        studyspot("scaling_overdue", "scaling/deployment studyspot-web", "P2", r"from 1 to 2 until .* put it back"),
        studyspot("backup_small", "backup_size/database", "P1", r"6\d% smaller than usual .* median of [45]"),
        adaptive_learning("archive_fails", "postgres_archiver", "P1", r"archiving 0000\w+ fails \(\d+ failures?\)"),
        adaptive_learning("statistics_hidden", "postgres_vacuum_need", "P2", r"could not look.*permission denied"),
        adaptive_learning("errors_high", "errors/api", "P1", r"12\.0%"),
    ],
}

SOAK = set(BATCHES) - {"services are gone"}
"""Checks that each have a test of their own as well, so that a whole Airflow sees them in `make soak` only."""

NEEDS_BACKUPS = ("studyspot_backups_lost", "studyspot_backup_small")
"""Faults of backups that were made: the Dag that makes them runs first."""

NOT_BY_THE_DAG = {
    "backup_wal": "is asked only where somebody archives the log, and red after a whole day (recovery.rpo) without;"
    " test_backup_freshness.py::test_log_that_does_not_reach_the_archive sees it red on a real server",
    "postgres_version": "is red for PostgreSQL older than 13 alone, and no package of such a server is to be had for"
    " the sandbox: Debian has 15, the wheels are 17 and 18; test_health_postgres.py holds the judgement itself",
}
"""Checks that the sandbox cannot make red through the daily Dags, and why."""
