"""Asking every job what its coming windows would do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from importlib.util import find_spec

import psycopg

from upkeep.alerts.redact import redact
from upkeep.errors import UpkeepError
from upkeep.plan.model import Asked, Planned, Planner, Slot
from upkeep.platforms import Platform

JOBS: Mapping[str, str] = {
    "vacuum": "upkeep.postgres.plan",
    "reindex": "upkeep.postgres.reindex.plan",
    "retention": "upkeep.retention.plan",
}
"""Each job and its planner: a module with ``coming(asked) -> list[Planned]``."""


@dataclass(frozen=True)
class Coming:
    """What the windows of one platform would do."""

    platform: Platform
    slots: tuple[Slot, ...]
    jobs: Mapping[str, list[Planned]]
    unknown: Mapping[str, str]
    """Jobs that could not say, and why."""


def slots(platform: Platform, now: datetime, days: float) -> tuple[Slot, ...]:
    """The windows that open within ``days``, the next first."""
    from croniter import croniter  # type: ignore[import-untyped]

    found = []
    for name in type(platform.windows).model_fields:
        window = getattr(platform.windows, name)
        times = croniter(window.start, now)
        while (starts := times.get_next(datetime)) <= now + timedelta(days=days):
            found.append(Slot(name, starts.astimezone(UTC), window.length))
    return tuple(sorted(found, key=lambda slot: (slot.starts, slot.name)))


def gather(asked: Asked) -> Coming:
    """Ask every job there is; one that cannot say does not keep the others from it."""
    jobs: dict[str, list[Planned]] = {}
    unknown: dict[str, str] = {}
    for job, module in JOBS.items():
        if not _exists(module):
            continue
        planner: Planner = import_module(module)
        try:
            jobs[job] = planner.coming(asked)
        except (UpkeepError, psycopg.Error) as trouble:
            unknown[job] = redact(" ".join(str(trouble).split()) or type(trouble).__name__)
    return Coming(asked.platform, tuple(asked.slots), jobs, unknown)


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
