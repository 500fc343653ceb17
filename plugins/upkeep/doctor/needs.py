"""Which connections the platforms need, and what for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from upkeep.platforms import Platform

Kind = Literal[
    "ledger", "pagerduty", "pagerduty_rest", "slack", "smtp", "airflow_api", "heartbeat",
    "postgres", "owner", "redis", "kafka", "kubernetes", "s3", "cdn", "failover", "alertmanager", "key",
]  # fmt: skip


@dataclass(frozen=True)
class Need:
    """One connection that must be there."""

    conn_id: str
    kind: Kind
    platform: Platform | None = None
    """Whose; None for those that all share."""

    bucket: str = ""
    """Of kind ``s3``: what it must reach."""

    writes: bool = False
    """Of kind ``s3``: whether it must also write there."""

    channels: tuple[str, ...] = ()
    """Of kind ``slack``: where it posts."""

    without: str = ""
    """What is lost without it; empty where maintenance needs it."""


FORM = {
    "ledger": "Postgres; host, login, password, schema = the ledger's database",
    "postgres": "Postgres; host, login = upkeep (by include/sql/postgres/roles.sql), password, schema = the database",
    "owner": "Postgres; host, login = upkeep_owner (by the same file), password, schema = the database",
    "failover": "Postgres; login = upkeep, password, schema = the database, extra as in docs/recovery.md",
    "redis": "Redis; host, port, password",
    "kafka": 'Kafka; extra is librdkafka configuration: {"bootstrap.servers": "host:9092"}',
    "kubernetes": "Kubernetes; extra with kube_config_path, or in_cluster",
    "s3": "Amazon Web Services; login and password = key pair, or extra with role_arn",
    "pagerduty_rest": "PagerDuty; host, login = whose name incidents are made in, password = a REST API token",
    "smtp": "SMTP; host, port, login, password; extra with from_email",
    "airflow_api": "HTTP; host = where the API server answers, login and password, or a token alone as password",
    "heartbeat": "HTTP; host and password together are the URL that expects a sign of life",
    "pagerduty": "PagerDuty Events; password = the integration's routing key",
    "cdn": 'HTTP; password = an API token that may purge the cache, extra = {"zone": "the zone\'s id"}',
    "alertmanager": "HTTP; password = what Alertmanager sends as its bearer token, e.g. of `openssl rand -hex 32`",
    "key": "any type; password = the key, as docs/security.md says; with age, login = the recipients",
    "slack": "Slack API; password = the bot's token, scope chat:write",
}
"""What such a connection looks like in Airflow."""


def shared(platforms: Sequence[Platform]) -> Iterator[Need]:
    """The connections that belong to no platform alone."""
    yield Need("upkeep_ledger", "ledger")
    for conn_id in _once(p.alerts.pagerduty_conn_id for p in platforms):
        yield Need(conn_id, "pagerduty")
    for conn_id in _once(p.alerts.slack_conn_id for p in platforms):
        channels = _once(p.alerts.channel for p in platforms if p.alerts.slack_conn_id == conn_id)
        yield Need(conn_id, "slack", channels=tuple(channels))
    for conn_id in _once(p.alerts.smtp_conn_id for p in platforms if p.alerts.email):
        yield Need(conn_id, "smtp")
    yield Need("upkeep_pagerduty_rest", "pagerduty_rest", without="nobody's acknowledgement is seen, no incident made")
    yield Need("upkeep_airflow_api", "airflow_api", without="a run whose process was killed is told by nobody")
    yield Need("upkeep_heartbeat", "heartbeat", without="nobody notices when Upkeep itself has stopped")


def own(platform: Platform) -> Iterator[Need]:
    """The connections of one platform."""
    if platform.postgres is not None:
        yield Need(platform.conn("postgres"), "postgres", platform)
        yield Need(platform.conn("postgres_owner"), "owner", platform)
        if bucket := platform.postgres.deletion.archive_bucket:
            yield Need(platform.conn("backup_s3"), "s3", platform, bucket=bucket, writes=True)
    if platform.redis is not None:
        yield Need(platform.conn("redis"), "redis", platform)
    if platform.kafka is not None:
        yield Need(platform.conn("kafka"), "kafka", platform)
    if platform.kubernetes is not None:
        yield Need(platform.conn("kubernetes"), "kubernetes", platform)
    if platform.cdn is not None:
        yield Need(platform.conn("cdn"), "cdn", platform)
    if platform.alertmanager is not None:
        yield Need(platform.conn("alertmanager"), "alertmanager", platform)
    if platform.backup is not None:
        if platform.backup.files is not None:
            yield Need(platform.conn("s3"), "s3", platform, bucket=platform.backup.files.bucket)
        yield Need(platform.conn("backup_s3"), "s3", platform, bucket=platform.backup.bucket, writes=True)
        if platform.backup.encryption != "none":
            yield Need(platform.conn("backup_key"), "key", platform)
    if platform.recovery is not None and platform.recovery.drill.failover == "streaming":
        yield Need(platform.conn("failover"), "failover", platform, without="no failover can be rehearsed")


def _once(values: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(values))
