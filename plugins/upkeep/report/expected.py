"""What should have left a trace in a run, because the platform file names it; and what did not."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from upkeep.platforms import Platform
from upkeep.report.model import ECHOES, Gap
from upkeep.report.wording import clock

SECTIONS = ("http", "postgres", "redis", "kafka", "kubernetes", "metrics", "hosts")
"""Sections of a platform file that a complete maintenance run looks after."""

_WORDS = {
    "http": ("http", "tls", "certificate", "endpoint"),
    "postgres": ("postgres", "replication"),
    "redis": ("redis",),
    "kafka": ("kafka",),
    "kubernetes": ("kubernetes", "pod", "pods", "deployment", "node", "nodes"),
    "metrics": ("metrics", "prometheus", "disk", "memory", "errors", "host"),
    "hosts": ("logs", "log", "temporary", "hosts", "cleanup"),
}
"""First words of the names of the checks, and the capabilities, that belong to a section."""


@dataclass(frozen=True)
class Trace:
    """An outcome, as far as it says what was looked at."""

    check: str
    object: str
    facts: Mapping[str, Any]


def section_of(check: str) -> str | None:
    """The section whose service a check looks at: ``redis_hit_rate`` → ``redis``."""
    first = check.partition("_")[0]
    return next((section for section, words in _WORDS.items() if first in words), None)


def area_of(check: str, task_id: str) -> str:
    """Under which heading a check is shown."""
    return section_of(check) or task_id


def gaps(
    platform: Platform,
    sections: Collection[str],
    traces: Sequence[Trace],
    capabilities: Collection[str],
    before: Mapping[str, datetime],
    states: Mapping[str, str],
    tasks_seen: Collection[str],
) -> tuple[Gap, ...]:
    """
    What left no trace. Absence is evidence of nothing, so it is shown.

    :param capabilities: that planned or did something in this run.
    :param before: checks this Dag made earlier and not now, with the time of the last look.
    :param states: of the run's tasks.
    :param tasks_seen: tasks that wrote to the ledger.
    """
    looked = {section_of(trace.check) for trace in traces} | {section_of(capability) for capability in capabilities}
    found = []
    for section in sections:
        if getattr(platform, section) is not None and section not in looked:
            found.append(Gap(what=section, why=f"the platform file has a section `{section}`; no check of it ran"))
    for section, name in _named(platform, sections):
        if section in looked and not _covered(section, name, traces):
            found.append(Gap(what=f"{section} {name}", why="the platform file names it; no check looked at it"))
    for check, last in before.items():
        # Of a section that left nothing at all, that has been said.
        if section_of(check) in looked - {None}:
            found.append(Gap(what=check, why=f"looked last at {clock(last)}, and not in this run"))
    for task_id, state in states.items():
        if state in ("failed", "upstream_failed") and task_id.partition("[")[0] not in (*tasks_seen, *ECHOES):
            found.append(Gap(what=f"task {task_id}", why=f"{words_for(state)}, and wrote nothing to the ledger"))
    return tuple(found)


def words_for(state: str) -> str:
    """Airflow's word for a state, said to people."""
    return {"upstream_failed": "was not begun, because a task before it failed"}.get(state, state)


def _named(platform: Platform, sections: Collection[str]) -> Iterable[tuple[str, str]]:
    """Things that the platform file calls by name and that a check must therefore name as well."""
    if platform.http and "http" in sections:
        yield from (("http", endpoint.name) for endpoint in platform.http.endpoints)
    if platform.kafka and "kafka" in sections:
        yield from (("kafka", group.group) for group in platform.kafka.groups)
    if platform.kubernetes and "kubernetes" in sections:
        yield from (("kubernetes", deployment.name) for deployment in platform.kubernetes.deployments)


def _covered(section: str, name: str, traces: Sequence[Trace]) -> bool:
    """A check looked at it by name, or at everything of its kind at once."""
    for trace in traces:
        if section_of(trace.check) != section:
            continue
        # "Can it be reached at all" says nothing about what is behind it, unless it could not.
        if not trace.object and not trace.check.endswith("_connect"):
            return True
        if name in trace.object or name in json.dumps(dict(trace.facts), default=str):
            return True
    return False
