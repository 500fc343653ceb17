"""What is sampled: how people call it, in what it is counted, and what to do before it runs out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from upkeep.report.wording import number, size

Unit = Literal["share", "bytes", "number", "cores"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One metric."""

    words: str
    unit: Unit
    hint: str = ""
    """What to do before it runs out; empty where running out is nobody's trouble, or another rule judges it."""

    shrink: str = ""
    """What could be taken away where hardly any of it is ever in use."""


CATALOG: Mapping[str, Kind] = {
    "volume_share": Kind(
        words="volume", unit="share", hint="find what grows, make room or grow the volume; it takes time to buy one."
    ),
    "database_bytes": Kind(
        words="database", unit="bytes", hint="look at its largest tables below; expire rows, or grow the volume."
    ),
    "table_bytes": Kind(words="table", unit="bytes"),
    "index_bytes": Kind(words="index", unit="bytes"),
    "wal_bytes": Kind(words="write-ahead log", unit="bytes"),
    "connections": Kind(
        words="connections",
        unit="number",
        hint="put a pooler in front, or find who keeps them; a higher max_connections costs memory and a restart.",
    ),
    "rows": Kind(words="rows of", unit="number"),
    "new_rows": Kind(words="new rows a day of", unit="number"),
    "memory_share": Kind(
        words="memory of",
        unit="share",
        hint="find which process grows, or order a larger host.",
        shrink="a smaller host would do.",
    ),
    "cpu_share": Kind(
        words="CPU of",
        unit="share",
        hint="find what takes it, spread the load, or order a larger host.",
        shrink="a smaller host would do.",
    ),
    "redis_bytes": Kind(
        words="Redis memory",
        unit="bytes",
        hint="see which keys grow (`redis-cli --bigkeys`), give them a time to live, or raise maxmemory.",
        shrink="maxmemory could be smaller.",
    ),
    "topic_bytes": Kind(
        words="topic", unit="bytes", hint="shorten its retention, or raise `size` of its policy in the platform file."
    ),
    "bucket_bytes": Kind(words="bucket", unit="bytes"),
    "bucket_objects": Kind(words="objects in bucket", unit="number"),
    "node_share": Kind(words="node", unit="share", hint="add a node, or move pods; see `kubectl top nodes`."),
    "pods_cpu_cores": Kind(
        words="CPU of all pods",
        unit="cores",
        hint="add nodes; `capacity.limits` of the platform file says what there is.",
        shrink="fewer nodes would do.",
    ),
    "pods_memory_bytes": Kind(
        words="memory of all pods",
        unit="bytes",
        hint="add nodes; `capacity.limits` of the platform file says what there is.",
        shrink="fewer nodes would do.",
    ),
    "autoscaler_replicas": Kind(words="replicas of", unit="number"),
    "autoscaler_at_most_share": Kind(words="time at the maximum of", unit="share"),
    "request_share": Kind(words="use of what is requested,", unit="share"),
}

UNKNOWN = Kind(words="", unit="number")
"""For a metric that an older or newer version sampled."""


def kind(metric: str) -> Kind:
    return CATALOG.get(metric, UNKNOWN)


def named(metric: str, object: str) -> str:
    """``volume db-0:9100:/``, ``connections``."""
    return f"{kind(metric).words or metric} {object}".strip()


def said(metric: str, value: float) -> str:
    """A value with its unit: ``85.2 %``, ``12.4 GiB``, ``3.2 cores``."""
    match kind(metric).unit:
        case "share":
            return f"{round(100 * value, 1):g} %"
        case "bytes":
            return size(value)
        case "cores":
            return f"{value:.2f} cores" if value < 10 else f"{value:.1f} cores"
        case _:
            return number(round(value)) if abs(value) >= 100 else number(round(value, 1))


def of_limit(metric: str, most: float) -> str:
    """`` of 97``; nothing for a share, which is of the whole."""
    return "" if kind(metric).unit == "share" and most == 1 else f" of {said(metric, most)}"


def used(metric: str, value: float, most: float | None) -> str:
    """``87 %``, ``89 of 97``, ``12.4 GiB``."""
    return said(metric, value) + (of_limit(metric, most) if most else "")
