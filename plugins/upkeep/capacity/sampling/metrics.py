"""Volumes, memory and CPU of the platform's hosts, as Prometheus knows them: the same questions as health asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from upkeep.capacity.sampling.measured import Measured
from upkeep.health.metrics import now_of
from upkeep.platforms.services import Metrics

BUSY = "quantile_over_time(0.95, ({query})[1d:5m]) or ({query})"
"""Of what goes up and down all day, what was enough for 95 % of the last one; what is younger counts as it is now."""


def volumes(settings: Metrics, *, connect_to: Mapping[str, str]) -> Iterator[Measured]:
    """Share in use of each ``instance:mountpoint``."""
    for object, share in now_of(settings, settings.disk_query, connect_to=connect_to).items():
        yield Measured(metric="volume_share", object=object, value=share, most=1.0)


def busy(settings: Metrics, metric: str, query: str, *, connect_to: Mapping[str, str]) -> Iterator[Measured]:
    """Share in use of each ``instance`` for all but 5 % of the last day; of those that report now."""
    alive = now_of(settings, query, connect_to=connect_to)
    for object, share in now_of(settings, query, ask=BUSY, connect_to=connect_to).items():
        if object in alive:
            yield Measured(metric=metric, object=object, value=share, most=1.0)
