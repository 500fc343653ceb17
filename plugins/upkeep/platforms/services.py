"""Sections about the servers a platform is made of, as far as looking and daily care need them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from upkeep.findings import Severity
from upkeep.platforms.base import (
    AbsolutePath,
    Bytes,
    Count,
    Duration,
    KubernetesName,
    Name,
    Section,
    Share,
    TableName,
    Threshold,
)


def _plain_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError("a URL starts with https:// or http:// and names a host")
    if parts.username or parts.password:
        raise ValueError("a URL carries no user or password; secrets live in Airflow connections")
    return url


Url = Annotated[str, AfterValidator(_plain_url)]


class Endpoint(Section):
    """One address that must answer."""

    name: Name
    """What findings call it."""

    url: Url

    severity: Severity = Severity.P0
    """How bad it is when it does not answer as it should."""

    expect_status: int = Field(default=200, ge=100, le=599)

    expect_json: dict[str, Any] = Field(default_factory=dict)
    """Keys that the JSON body must carry with these values: a 200 that says ``degraded`` is not healthy."""

    expect_text: str = ""
    """Text that the body must contain; empty for none."""

    timeout: Duration = timedelta(seconds=3)
    """For the whole answer, connecting included; at most 4 s, because checks must end within 10."""

    slow: Duration = timedelta(seconds=1)
    """An answer slower than this is a P3 finding."""

    @field_validator("timeout")
    @classmethod
    def _short(cls, value: timedelta) -> timedelta:
        if not timedelta(milliseconds=100) <= value <= timedelta(seconds=4):
            raise ValueError("between 100ms and 4s")
        return value


class Http(Section):
    """What the outside world sees."""

    endpoints: tuple[Endpoint, ...] = Field(min_length=1)

    certificate_left: Threshold = Threshold(
        warn=1 / 3, critical=1 / 6, warn_severity=Severity.P2, critical_severity=Severity.P1
    )
    """Share of a certificate's lifetime that is left; lifetimes shrink, so a share and not a number of days."""

    certificate_least: Duration = timedelta(hours=72)
    """Less than this left is always critical."""

    @field_validator("endpoints")
    @classmethod
    def _distinct(cls, value: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        return distinct(value, "name")


class Vacuum(Section):
    """How VACUUM and ANALYZE behave towards the application."""

    least_score: float = Field(default=1.0, ge=0.1, le=100)
    """Tables are cared for from this score on; 1 is where autovacuum would begin (score as in PostgreSQL 19)."""

    most_tables: int = Field(default=200, ge=1, le=1000)
    """At most this many in one window, the neediest first."""

    lock_timeout: Duration = timedelta(seconds=2)
    cost_limit: int = Field(default=2000, ge=1, le=10000)
    cost_delay: Duration = timedelta(milliseconds=2)
    """Pause after each ``cost_limit``; PostgreSQL's own default for a manual VACUUM is none at all."""

    statement_timeout: Duration = timedelta(minutes=30)


class Retention(Section):
    """How long rows of one table are kept; rows older than that may be deleted without asking, within the cap."""

    column: str = Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    """The timestamp that ages."""

    keep: Duration

    only: str = ""
    """SQL condition that a row must meet as well: ``status = 'inactive'``."""

    hold: str = ""
    """SQL condition of rows under legal hold: never deleted."""

    archive: bool = False
    """Copy to S3 before deleting, and delete only what arrived."""


class Table(Section):
    """One table of the application that maintenance must know by name."""

    name: TableName
    retention: Retention | None = None


class Query(Section):
    """A question of the application whose answer proves that the data is whole."""

    name: Name
    sql: str = Field(min_length=8, max_length=4000)
    """One read-only SELECT that returns one row and one column."""

    at_least: float | None = None
    """The answer must be this or more."""

    @field_validator("sql")
    @classmethod
    def _reads_only(cls, value: str) -> str:
        if not re.match(r"(?is)^\s*(select|with)\b", value) or ";" in value.rstrip().rstrip(";"):
            raise ValueError("one SELECT, and nothing after it")
        return value


class Postgres(Section):
    """The database behind ``{platform}_postgres`` (maintenance role) and ``{platform}_postgres_owner``."""

    severity: Severity = Severity.P0
    """How bad it is when the database cannot be used."""

    connections: Threshold = Threshold(warn=0.8, critical=0.9, warn_severity=Severity.P2)
    """Share of ``max_connections`` less the reserved ones."""

    long_query: Duration = timedelta(minutes=5)
    """A statement running longer is a finding."""

    idle_in_transaction: Duration = timedelta(minutes=5)
    """A session idle inside a transaction longer than this is a finding: it holds locks and the old xmin."""

    activity_severity: Severity = Severity.P2
    """Of long statements and idle transactions; one step worse when somebody waits for them."""

    standbys: int = Field(default=0, ge=0, le=16)
    """How many streaming standbys there must be."""

    replication_lag: Threshold = Threshold(warn=10, critical=60, warn_severity=Severity.P2)
    """Seconds a standby may be behind."""

    replication_severity: Severity = Severity.P1
    """How bad a missing standby is."""

    slot_retained: Bytes = Field(default="1GiB", validate_default=True)
    """WAL that an inactive replication slot may hold back."""

    xid_age: Threshold = Threshold(warn=0.5, critical=0.75, warn_severity=Severity.P1, critical_severity=Severity.P0)
    """Share of the two billion transaction ids in use: wraparound."""

    vacuum: Vacuum = Vacuum()
    tables: tuple[Table, ...] = ()
    queries: tuple[Query, ...] = ()
    """Run after every restore."""

    @field_validator("tables", "queries")
    @classmethod
    def _distinct(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return distinct(value, "name")


class Redis(Section):
    """The cache behind ``{platform}_redis``."""

    severity: Severity = Severity.P0
    memory: Threshold = Threshold(warn=0.8, critical=0.9, warn_severity=Severity.P2)
    """Share of ``maxmemory``; without a limit there is nothing to judge and that itself is a P3 finding."""

    hit_rate: Threshold = Threshold(warn=0.8, critical=0.5, warn_severity=Severity.P3, critical_severity=Severity.P3)
    """Hits of all reads since the last look (counters, not Redis's lifetime); low is bad."""

    least_reads: Count = 100
    """Fewer reads than this since the last look say nothing about the hit rate."""

    cache_prefixes: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{2,64}$")], ...] = ()
    """Keys that may be cleared in an incident; sessions and queues are never among them."""


class ConsumerGroup(Section):
    """Who must keep up with which topics."""

    group: str = Field(min_length=1, max_length=249)
    topics: tuple[Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$")], ...] = Field(min_length=1)
    lag: Count = 10_000
    """Messages behind, per group and topic; more *and not falling* is a finding."""

    severity: Severity = Severity.P1


class TopicPolicy(Section):
    """How long messages of matching topics may be kept."""

    pattern: str = Field(min_length=1, max_length=249)
    """Shell pattern of topic names: ``events.*``."""

    keep: Duration
    """``retention.ms`` must not be longer, and must be set."""

    size: Bytes | None = None
    """Bytes per topic above which it is a finding."""


class Kafka(Section):
    """The brokers behind ``{platform}_kafka``."""

    severity: Severity = Severity.P1
    brokers: int = Field(default=1, ge=1, le=1000)
    """How many brokers there must be."""

    groups: tuple[ConsumerGroup, ...] = ()
    topics: tuple[TopicPolicy, ...] = ()

    @field_validator("groups")
    @classmethod
    def _distinct(cls, value: tuple[ConsumerGroup, ...]) -> tuple[ConsumerGroup, ...]:
        return distinct(value, "group")


class Deployment(Section):
    """One Deployment and the bounds within which maintenance may move it."""

    name: KubernetesName
    container: KubernetesName = "app"
    image: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9._/:-]*(@sha256:[0-9a-f]{64})?)?$")
    """Repository of its image, without a tag: what is running is known by digest."""

    least: int = Field(default=1, ge=1, le=1000)
    most: int = Field(default=10, ge=1, le=1000)
    severity: Severity = Severity.P1
    """How bad it is when it is not available."""

    @model_validator(mode="after")
    def _bounds(self) -> Deployment:
        if self.least > self.most:
            raise ValueError(f"least ({self.least}) is more than most ({self.most})")
        return self


class Kubernetes(Section):
    """The cluster behind ``{platform}_kubernetes``."""

    namespace: KubernetesName
    staging_namespace: KubernetesName | None = None
    deployments: tuple[Deployment, ...] = ()
    severity: Severity = Severity.P1
    """How bad it is when the API cannot be asked."""

    unready: Duration = timedelta(minutes=5)
    """A pod that is not ready for longer is a finding."""

    restarts: int = Field(default=5, ge=1, le=1000)
    """Restarts of one container within the last hour that make a finding."""

    usage: Threshold = Threshold(warn=0.8, critical=0.95, warn_severity=Severity.P3, critical_severity=Severity.P2)
    """Share of a node's allocatable, or of a container's limit, of CPU and memory."""

    finished_ttl: Duration = timedelta(days=1)
    """Finished Jobs and Pods older than this are removed, when they carry ``cleanup_label``."""

    cleanup_label: str = Field(default="upkeep/cleanup=true", pattern=r"^[A-Za-z0-9./_-]+=[A-Za-z0-9._-]+$")
    """Only what carries this label is ever removed."""

    hold_label: str = Field(default="upkeep/hold=true", pattern=r"^[A-Za-z0-9./_-]+=[A-Za-z0-9._-]+$")
    """What carries this label never is."""

    image_gc: tuple[Share, Share] = (0.80, 0.85)
    """Low and high threshold of the kubelets' image garbage collection; others are a finding."""

    @field_validator("deployments")
    @classmethod
    def _distinct(cls, value: tuple[Deployment, ...]) -> tuple[Deployment, ...]:
        return distinct(value, "name")


class Metrics(Section):
    """Where disk and memory of the platform (not of the worker) are read."""

    prometheus: Url
    disk_query: str = (
        '1 - node_filesystem_avail_bytes{fstype!~"tmpfs|ramfs|overlay|squashfs"} '
        '/ node_filesystem_size_bytes{fstype!~"tmpfs|ramfs|overlay|squashfs"}'
    )
    """PromQL whose series are shares of disk used, one per instance and mount point."""

    memory_query: str = "1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes"
    """PromQL whose series are shares of memory used, one per instance."""

    disk: Threshold = Threshold(warn=0.8, critical=0.9, warn_severity=Severity.P3, critical_severity=Severity.P1)
    memory: Threshold = Threshold(warn=0.8, critical=0.9, warn_severity=Severity.P3, critical_severity=Severity.P2)
    fresh: Duration = timedelta(minutes=5)
    """Samples older than this are ``unknown``: the pipeline is stale, not the disk fine."""


class LogClass(Section):
    """Log files of one kind."""

    name: Name
    pattern: str = Field(min_length=1, max_length=200)
    """Shell pattern of the path below the tree: ``*.log``, ``audit/**``. The first class that matches counts."""

    keep: Duration | Literal["forever"]
    """Since the last write; ``forever`` never deletes."""

    @field_validator("pattern")
    @classmethod
    def _below(cls, value: str) -> str:
        if value.startswith("/") or ".." in value.split("/"):
            raise ValueError("a pattern stays below its tree")
        return value


class LogTree(Section):
    """A directory of logs on the platform's hosts."""

    path: AbsolutePath
    classes: tuple[LogClass, ...] = Field(min_length=1)
    holds: tuple[str, ...] = ()
    """Shell patterns under legal hold: never deleted, whatever their class says."""

    @field_validator("classes")
    @classmethod
    def _distinct(cls, value: tuple[LogClass, ...]) -> tuple[LogClass, ...]:
        return distinct(value, "name")


class TemporaryTree(Section):
    """A directory in which the application leaves temporary files."""

    path: AbsolutePath
    pattern: str = Field(min_length=1, max_length=200)
    """Shell pattern of the names that are ours: ``studyspot-*``."""

    older_than: Duration = timedelta(days=1)

    @field_validator("pattern")
    @classmethod
    def _ours(cls, value: str) -> str:
        if "/" in value or value.strip("*?") == "":
            raise ValueError("a pattern names our own files directly below the path: studyspot-*")
        return value


class Hosts(Section):
    """Log and temporary trees; ``host_root`` in ``include/upkeep.yaml`` says where a worker sees them."""

    logs: tuple[LogTree, ...] = ()
    temporary: tuple[TemporaryTree, ...] = ()
    most_share: Share = 0.5
    """The standing yes ends here: deleting more than this share of a set asks a person first."""

    most_times_usual: float = Field(default=3.0, ge=1, le=100)
    """… as does more than this many times what is usual."""


def distinct(items: tuple[Any, ...], field: str) -> tuple[Any, ...]:
    """``items``, unless two share ``field``. :raises ValueError: they do."""
    seen: set[Any] = set()
    for item in items:
        value = getattr(item, field)
        if value in seen:
            raise ValueError(f"two entries with the same {field}: {value!r}")
        seen.add(value)
    return items
