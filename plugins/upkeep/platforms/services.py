"""Sections about the services a platform is made of; its database and its hosts have modules of their own."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from upkeep.findings import Severity
from upkeep.platforms.base import (
    Between,
    Bytes,
    Count,
    Duration,
    KubernetesName,
    Name,
    Section,
    Share,
    ShareLeft,
    ShareUsed,
    Threshold,
    Url,
    distinct,
)
from upkeep.platforms.database import Postgres, Query, Retention, Table, Vacuum
from upkeep.platforms.hosts import Hosts, LogClass, LogTree, TemporaryTree

__all__ = [
    "ConsumerGroup",
    "Deployment",
    "Endpoint",
    "Hosts",
    "Http",
    "Kafka",
    "Kubernetes",
    "LogClass",
    "LogTree",
    "Metrics",
    "Postgres",
    "Query",
    "Redis",
    "Retention",
    "Table",
    "TemporaryTree",
    "TopicPolicy",
    "Vacuum",
]


class Endpoint(Section):
    """One address that must answer."""

    name: Name
    """What findings call it."""

    url: Url
    """Asked with GET; ``connect_to`` in ``include/upkeep.yaml`` may send it to another address."""

    severity: Severity = Severity.P0
    """How bad it is when it does not answer as it should."""

    expect_status: int = Field(default=200, ge=100, le=599)
    """HTTP status of the answer; redirects are not followed."""

    expect_json: dict[str, Any] = Field(default_factory=dict)
    """Keys that the JSON body must carry with these values: a 200 that says ``degraded`` is not healthy."""

    expect_text: str = ""
    """Text that the body must contain; empty for none."""

    timeout: Annotated[Duration, Between("100ms", "4s")] = timedelta(seconds=3)
    """For the whole answer, connecting included; at most 4 s, because checks must end within 10."""

    slow: Annotated[Duration, Between("1ms", "4s")] = timedelta(seconds=1)
    """An answer slower than this is a P3 finding."""

    @model_validator(mode="after")
    def _reachable(self) -> Endpoint:
        if self.slow > self.timeout:
            raise ValueError("slow is longer than timeout: no answer could be slow")
        return self


class Http(Section):
    """What the outside world sees."""

    endpoints: tuple[Endpoint, ...] = Field(min_length=1)
    """What is asked, all side by side."""

    certificate_left: ShareLeft = Threshold(
        warn=1 / 3, critical=1 / 6, warn_severity=Severity.P2, critical_severity=Severity.P1
    )
    """Share of a certificate's lifetime that is left; lifetimes shrink, so a share and not a number of days."""

    certificate_least: Duration = timedelta(hours=72)
    """Less than this left is always critical."""

    @field_validator("endpoints")
    @classmethod
    def _distinct(cls, value: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        return distinct(value, "name")


class Redis(Section):
    """The cache behind ``{platform}_redis``."""

    severity: Severity = Severity.P0
    """How bad it is when the cache cannot be used."""

    memory: ShareUsed = Threshold(warn=0.8, critical=0.9, warn_severity=Severity.P2)
    """Share of ``maxmemory``; without a limit there is nothing to judge and that itself is a P3 finding."""

    hit_rate: ShareLeft = Threshold(warn=0.8, critical=0.5, warn_severity=Severity.P3, critical_severity=Severity.P3)
    """Hits of all reads since the last look (counters, not Redis's lifetime); low is bad."""

    least_reads: Count = 100
    """Fewer reads than this since the last look say nothing about the hit rate."""

    cache_prefixes: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{2,64}$")], ...] = ()
    """Keys that may be cleared in an incident; sessions and queues are never among them."""


class ConsumerGroup(Section):
    """Who must keep up with which topics."""

    group: str = Field(min_length=1, max_length=249)
    """Consumer group, as Kafka knows it."""

    topics: tuple[Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$")], ...] = Field(min_length=1)
    """Topics that it reads."""

    lag: Count = 10_000
    """Messages behind, per group and topic; more *and not falling* is a finding."""

    severity: Severity = Severity.P1
    """How bad such a lag is."""


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
    """How bad it is when the brokers cannot be asked, or one is missing."""

    brokers: int = Field(default=1, ge=1, le=1000)
    """How many brokers there must be."""

    groups: tuple[ConsumerGroup, ...] = ()
    """Who must keep up."""

    topics: tuple[TopicPolicy, ...] = ()
    """Retention by topic name; the first pattern that matches counts."""

    @field_validator("groups")
    @classmethod
    def _distinct(cls, value: tuple[ConsumerGroup, ...]) -> tuple[ConsumerGroup, ...]:
        return distinct(value, "group")


class Deployment(Section):
    """One Deployment and the bounds within which maintenance may move it."""

    name: KubernetesName
    """Name of the Deployment."""

    container: KubernetesName = "app"
    """Its container that runs ``image``."""

    image: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9._/:-]*(@sha256:[0-9a-f]{64})?)?$")
    """Repository of its image, without a tag: what is running is known by digest."""

    least: int = Field(default=1, ge=1, le=1000)
    """Replicas it never goes below."""

    most: int = Field(default=10, ge=1, le=1000)
    """Replicas it never goes beyond."""

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
    """Where the platform runs."""

    staging_namespace: KubernetesName | None = None
    """Where releases and drills are tried first."""

    deployments: tuple[Deployment, ...] = ()
    """What must be available, and may be restarted or scaled in an incident."""

    severity: Severity = Severity.P1
    """How bad it is when the API cannot be asked."""

    unready: Duration = timedelta(minutes=5)
    """A pod that is not ready for longer is a finding."""

    restarts: int = Field(default=5, ge=1, le=1000)
    """Restarts of one container within the last hour that make a finding."""

    usage: ShareUsed = Threshold(warn=0.8, critical=0.95, warn_severity=Severity.P3, critical_severity=Severity.P2)
    """Share of a node's allocatable, or of a container's limit, of CPU and memory."""

    finished_ttl: Duration = timedelta(days=1)
    """Finished Jobs and Pods older than this are removed, when they carry ``cleanup_label``."""

    cleanup_label: str = Field(default="upkeep/cleanup=true", pattern=r"^[A-Za-z0-9./_-]+=[A-Za-z0-9._-]+$")
    """Only what carries this label is ever removed."""

    hold_label: str = Field(default="upkeep/hold=true", pattern=r"^[A-Za-z0-9./_-]+=[A-Za-z0-9._-]+$")
    """What carries this label never is."""

    image_gc: tuple[Share, Share] = (0.80, 0.85)
    """Low and high threshold of the kubelets' image garbage collection; others are a finding."""

    @field_validator("image_gc")
    @classmethod
    def _low_high(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] >= value[1]:
            raise ValueError(f"low ({value[0]:g}) is not below high ({value[1]:g})")
        return value

    @field_validator("deployments")
    @classmethod
    def _distinct(cls, value: tuple[Deployment, ...]) -> tuple[Deployment, ...]:
        return distinct(value, "name")


class Metrics(Section):
    """Where disk and memory of the platform (not of the worker) are read."""

    prometheus: Url
    """Its base address."""

    disk_query: str = (
        '1 - node_filesystem_avail_bytes{fstype!~"tmpfs|ramfs|overlay|squashfs"} '
        '/ node_filesystem_size_bytes{fstype!~"tmpfs|ramfs|overlay|squashfs"}'
    )
    """PromQL whose series are shares of disk used, one per instance and mount point."""

    memory_query: str = "1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes"
    """PromQL whose series are shares of memory used, one per instance."""

    cpu_query: str = ""
    """PromQL whose series are shares of CPU used, one per instance; without it there are no samples of it."""

    database_free: str = ""
    """PromQL for the bytes left where the database's data are; of several series the least counts. Without it nobody
    knows, and no index is rebuilt."""

    disk: ShareUsed = Threshold(warn=0.8, critical=0.9, warn_severity=Severity.P3, critical_severity=Severity.P1)
    """Share of a file system in use."""

    memory: ShareUsed = Threshold(warn=0.8, critical=0.9, warn_severity=Severity.P3, critical_severity=Severity.P2)
    """Share of a host's memory in use, caches not counted."""

    errors_query: str = ""
    """PromQL whose series are shares of requests that failed, one per service; without it nobody looks."""

    requests_query: str = ""
    """PromQL for the requests behind those shares, a second, with the same labels; without it every share counts."""

    errors: ShareUsed = Threshold(warn=0.01, critical=0.05, warn_severity=Severity.P2, critical_severity=Severity.P1)
    """Share of requests that failed."""

    least_requests: float = Field(default=0.2, ge=0, le=1e6)
    """Requests a second below which a share says nothing: one error of three visitors at night."""

    fresh: Annotated[Duration, Between("15s", "1d")] = timedelta(minutes=5)
    """Samples older than this are ``unknown``: the pipeline is stale, not the disk fine."""
