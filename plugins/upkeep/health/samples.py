"""Which numbers of a look are worth keeping, for trends and forecasts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from upkeep.findings import Outcome

HEADLINES = {
    "http": {"seconds": "http_seconds"},
    "tls": {"days_left": "certificate_days_left"},
    "postgres_write": {"commit_s": "postgres_commit_s"},
    "postgres_connections": {"used": "postgres_connections", "share": "postgres_connections_share"},
    "postgres_replication": {"lag_s": "postgres_lag_s", "lag_bytes": "postgres_lag_bytes"},
    "postgres_slots": {"most_retained_bytes": "postgres_slot_bytes"},
    "postgres_wraparound": {"most_used": "postgres_ids_share"},
    "redis_memory": {"used_bytes": "redis_memory_bytes", "share": "redis_memory_share"},
    "redis_hit_rate": {"rate": "redis_hit_rate"},
    "redis_clients": {"clients": "redis_clients"},
    "kafka_lag": {"lag": "kafka_lag"},
    "usage": {"nodes": "node_share", "containers": "container_share", "requests": "request_share"},
    "scaling": {"at_most": "autoscaler_at_most"},
    "disk": {"share": "disk_share"},
    "memory": {"share": "memory_share"},
}
"""check → fact → metric. A fact is a number, or a mapping of objects to numbers."""


def headlines(outcomes: Iterable[Outcome]) -> dict[tuple[str, str], float]:
    """``{("disk_share", "db-0:9100:/"): 0.71, …}``: by metric and object; what was not measured is absent."""
    found: dict[tuple[str, str], float] = {}
    for outcome in outcomes:
        for fact, metric in HEADLINES.get(outcome.check, {}).items():
            for object, value in _values(outcome.object, outcome.facts.get(fact)).items():
                found[metric, object] = value
    return found


def _values(object: str, value: Any) -> dict[str, float]:
    if isinstance(value, Mapping):
        return {str(key): float(each) for key, each in value.items() if _is_number(each)}
    return {object: float(value)} if _is_number(value) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
