"""Redis: memory against ``maxmemory``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from upkeep.capacity.sampling.measured import Measured
from upkeep.health.redis import info_of


def memory(arguments: Mapping[str, Any]) -> Iterator[Measured]:
    """``used_memory`` now. :raises redis.RedisError: it cannot be asked."""
    info = info_of(arguments)
    yield Measured(metric="redis_bytes", value=info["used_memory"], most=float(info.get("maxmemory") or 0) or None)
