"""Sections about how work is done: when it pauses, who may say yes, where heavy work runs, what a CDN may forget."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from upkeep.findings import Severity
from upkeep.platforms.base import (
    Between,
    Bytes,
    Duration,
    HostName,
    ImageName,
    KubernetesName,
    Section,
    Share,
    Url,
)


class Brake(Section):
    """When maintenance waits because the server is strained; any one of them is enough."""

    replica_lag: Annotated[Duration, Between("100ms", "1h")] = timedelta(seconds=30)
    """A standby is this far behind in time …"""

    replica_bytes: Bytes = Field(default="256MiB", validate_default=True)
    """… or in WAL."""

    wal_backlog: int = Field(default=42, ge=1, le=100_000)
    """Finished WAL segments (of 16 MiB, usually) that wait to be archived; GitLab stops its own migrations here."""

    slot_retained: Bytes = Field(default="4GiB", validate_default=True)
    """WAL that any replication slot holds back."""

    disk: Share = 0.9
    """Share of the database's disk in use."""

    sessions: Share = 0.5
    """Share of ``max_connections`` that is active, ours not counted."""

    first_wait: Annotated[Duration, Between("1s", "10m")] = timedelta(seconds=30)
    """The first wait."""

    longest_wait: Annotated[Duration, Between("1s", "1h")] = timedelta(minutes=10)
    """Waits double from the first to the longest; work ends politely with the window."""

    @model_validator(mode="after")
    def _order(self) -> Brake:
        if self.first_wait > self.longest_wait:
            raise ValueError("first_wait is longer than longest_wait")
        return self


class Remedy(StrEnum):
    """What may be done in an incident."""

    restart = "restart"
    scale = "scale"
    cache = "cache"
    rollback = "rollback"


Person = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,254}$")]
"""A user of Airflow, by user name."""


class Approvers(Section):
    """Who may say yes where a rule of this file is not enough."""

    people: tuple[Person, ...] = ()
    """Nobody means ``approvers`` of ``include/upkeep.yaml``."""

    answer_within: Annotated[Duration, Between("1m", "30d")] = timedelta(days=2)
    """After that the answer is no; silence never is a yes."""

    second_for: tuple[Literal["restore", "disaster_recovery", "drill", "erasure"], ...] = ()
    """What needs two different people."""

    preapproved: dict[Remedy, Severity] = Field(default_factory=dict)
    """Remedies that need no question in an incident this bad or worse: ``{restart: P0}``."""

    @field_validator("people")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len({person.lower() for person in value}) < len(value):
            raise ValueError("the same person twice")
        return value

    @model_validator(mode="after")
    def _two(self) -> Approvers:
        if self.second_for and len(self.people) == 1:
            raise ValueError("second_for asks two people and only one is named")
        return self


class Pod(Section):
    """The pod in which heavy tasks run."""

    image: ImageName
    """By digest."""

    namespace: KubernetesName
    """Where it runs."""

    service_account: KubernetesName = "default"
    """As whom; it needs no rights on the platform."""

    cpu: float = Field(default=2, gt=0, le=256)
    """Cores, as request and limit."""

    memory: Bytes = Field(default="1GiB", validate_default=True)
    """As request and limit."""

    scratch: Bytes = Field(default="2GiB", validate_default=True)
    """Temporary disk."""

    @field_validator("image")
    @classmethod
    def _pinned(cls, value: str) -> str:
        if "@sha256:" not in value:
            raise ValueError("the image is named by digest: …@sha256:…")
        return value


class Execution(Section):
    """Where heavy tasks (dumps, restores, scans, forecasts) run; the light ones always run on the workers."""

    heavy: Literal["worker", "executor", "pod"] = "worker"
    """On the workers like everything else, by another executor of Airflow, or each in a pod of its own."""

    executor: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,199}$")] | None = None
    """Executor for ``heavy: executor``, as in ``[core] executor``: ``KubernetesExecutor``."""

    queue: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,100}$")] | None = None
    """Celery queue of this platform's tasks; none is the default one."""

    pod: Pod | None = None
    """For ``heavy: pod``."""

    @model_validator(mode="after")
    def _complete(self) -> Execution:
        if self.heavy == "executor" and self.executor is None:
            raise ValueError("heavy: executor needs the name of the executor")
        if self.heavy == "pod" and self.pod is None:
            raise ValueError("heavy: pod needs a pod section")
        return self


class Cdn(Section):
    """The cache before the platform, behind ``{platform}_cdn``; the zone's id is in that connection's extra."""

    provider: Literal["cloudflare"] = "cloudflare"
    """Whose API it speaks."""

    api: Url = "https://api.cloudflare.com/client/v4"
    """Base address of the API."""

    hosts: tuple[HostName, ...] = Field(min_length=1)
    """Addresses of only these hosts may be purged; everything at once never is."""

    most_urls: int = Field(default=30, ge=1, le=100)
    """Addresses per request; Cloudflare takes 30, on its largest plan 100."""

    severity: Severity = Severity.P3
    """How bad it is when a purge is refused."""
