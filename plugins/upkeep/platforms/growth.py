"""Sections about growing: limits and lead times, and the scaling plan that reality is compared with."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from upkeep.platforms.base import Between, Bytes, Duration, Name, Section, Share, TableName, distinct


class Growth(Section):
    """A number of the business that is sampled daily."""

    name: Name
    """What reports call it."""

    table: TableName
    """Its rows are counted."""

    column: str = Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    """Time a row was made; days without a row count as zero."""


class Limits(Section):
    """What there is, where it cannot be measured; None is measured or unknown."""

    cpu_cores: float | None = Field(default=None, gt=0, le=10**6)
    """Cores of the whole cluster."""

    memory: Bytes | None = None
    """Memory of the whole cluster."""

    storage: Bytes | None = None
    """Disk of the whole cluster."""


class Capacity(Section):
    """Daily samples, and how early a limit must be seen coming."""

    limits: Limits = Limits()
    """Limits that nothing can be asked for."""

    growth: tuple[Growth, ...] = ()
    """Sampled beside sizes, connections, CPU and memory, which always are."""

    full: Share = 0.9
    """A resource counts as exhausted from this share on."""

    warn_left: Annotated[Duration, Between("1d", "2y")] = timedelta(days=30)
    """Fewer days (the early tenth of the forecast) until ``full`` are a P3 finding: about the time to buy more."""

    critical_left: Annotated[Duration, Between("1h", "1y")] = timedelta(days=7)
    """Fewer than this are a P1 finding."""

    least_samples: int = Field(default=14, ge=14, le=1000)
    """With fewer daily samples the answer is “insufficient data”; under two weeks no season can be seen."""

    horizon: Annotated[Duration, Between("7d", "3y")] = timedelta(days=180)
    """How far it looks ahead; never further than the history is long."""

    keep: Annotated[Duration, Between("30d", "20y")] = timedelta(days=3 * 366)
    """Samples older than this are dropped."""

    @field_validator("growth")
    @classmethod
    def _distinct(cls, value: tuple[Growth, ...]) -> tuple[Growth, ...]:
        return distinct(value, "name")

    @model_validator(mode="after")
    def _order(self) -> Capacity:
        if self.critical_left >= self.warn_left:
            raise ValueError("critical_left is not shorter than warn_left")
        if self.warn_left > self.horizon:
            raise ValueError("warn_left is beyond the horizon")
        return self


class Step(Section):
    """When more is added and when some is taken away."""

    up: Share
    """More from here on."""

    up_after: Annotated[Duration, Between("15s", "1d")] = timedelta(minutes=5)
    """Above ``up`` for this long."""

    down: Share
    """Less from here on."""

    down_after: Annotated[Duration, Between("15s", "7d")] = timedelta(minutes=15)
    """Below ``down`` for this long."""

    @model_validator(mode="after")
    def _apart(self) -> Step:
        # Halving the load per replica must not land below "down", or it swings for ever.
        if self.down >= self.up:
            raise ValueError(f"down ({self.down:g}) is not below up ({self.up:g}): it would swing for ever")
        return self


class Horizontal(Section):
    """Bounds and targets of the HorizontalPodAutoscalers."""

    least: int = Field(default=2, ge=1, le=1000)
    """Replicas there always are."""

    most: int = Field(default=20, ge=1, le=1000)
    """Replicas there may be."""

    cpu: Share | None = 0.7
    """Target of CPU use, of what is requested; None: not a metric of the autoscaler."""

    memory: Share | None = 0.8
    """Target of memory use, of what is requested; None: not a metric."""

    @model_validator(mode="after")
    def _bounds(self) -> Horizontal:
        if self.least > self.most:
            raise ValueError(f"least ({self.least}) is more than most ({self.most})")
        if self.cpu is None and self.memory is None:
            raise ValueError("neither cpu nor memory: the autoscaler would have nothing to go by")
        return self


class Nodes(Section):
    """Bounds of the cluster autoscaler."""

    least: int = Field(default=3, ge=0, le=15_000)
    """Nodes there always are."""

    most: int = Field(default=50, ge=1, le=15_000)
    """Nodes there may be."""

    up: Share = 0.7
    """Share of the nodes' allocatable in use from which one is added."""

    down: Share = 0.5
    """… below which one is drained and removed."""

    @model_validator(mode="after")
    def _bounds(self) -> Nodes:
        if self.least > self.most:
            raise ValueError(f"least ({self.least}) is more than most ({self.most})")
        if self.down >= self.up:
            raise ValueError(f"down ({self.down:g}) is not below up ({self.up:g}): it would swing for ever")
        return self


class Scaling(Section):
    """The scaling plan. Upkeep compares it with what is configured and says where they differ; it scales nothing."""

    cpu: Step = Step(up=0.7, down=0.3)
    """Use of CPU, of what is requested."""

    memory: Step = Step(up=0.8, down=0.4)
    """Use of memory, of what is requested."""

    connections: Share = 0.8
    """Share of ``max_connections`` in use from which the database must grow."""

    replica_reads: Share = 0.6
    """Share of reads from which another read replica is due."""

    storage_alert: Share = 0.8
    """Share of a volume in use that is a finding."""

    storage_expand: Share = 0.9
    """A volume is made larger from here on, by a person: a volume does not shrink again."""

    horizontal: Horizontal = Horizontal()
    """What the HorizontalPodAutoscalers must look like."""

    vertical: Literal["advise", "initial", "recreate", "in_place"] = "advise"
    """Update mode of the VerticalPodAutoscalers; ``advise`` is what they call Off."""

    nodes: Nodes = Nodes()
    """What the cluster autoscaler must look like."""

    @model_validator(mode="after")
    def _no_clash(self) -> Scaling:
        if self.storage_alert >= self.storage_expand:
            raise ValueError("storage_alert is not below storage_expand")
        if self.vertical not in ("advise", "initial"):
            raise ValueError(
                f"vertical: {self.vertical} and horizontal by cpu or memory pull at the same pods; "
                "leave vertical at advise or initial"
            )
        return self
