"""What a report holds: frozen records of plain values, as they appear in ``report.json``.

Sizes are bytes, lengths of time seconds, times UTC; people-formatting is ``upkeep.report.wording``'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

FORMAT = 1
"""Of ``report.json``; goes up when a reader of the old one would misunderstand the new one."""

DELETING = ("delete", "remove")
"""Verbs of actions whose ``before`` is what was planned, and whose ``after`` is what is gone."""

ECHOES = ("watcher", "verdict")
"""Tasks that fail because another did, and write nothing of their own."""

Verdict = Literal["ok", "findings", "unknown", "failed"]


@dataclass(frozen=True, kw_only=True)
class Level:
    """A severity as this platform calls it."""

    severity: str
    """On the one scale: ``P0`` … ``P4``."""

    name: str
    """The platform's own word: ``P1 Critical``."""

    respond_s: float | None
    """A person has looked within; None when the platform promises nothing."""

    resolve_s: float | None


@dataclass(frozen=True, kw_only=True)
class OpenFinding:
    """Something that is wrong with the platform now."""

    key: str
    check: str
    object: str
    kind: Literal["finding", "unknown"]
    level: Level
    peak: str
    """The worst severity since it opened."""

    summary: str
    hint: str
    facts: Mapping[str, Any]
    looks: int
    """How often it was seen since it opened."""

    opened_at: datetime
    last_seen_at: datetime
    seen_by_run: bool
    """False: another run found it, and this one did not look or could not."""

    event: str
    """What this run changed about it: ``opened``, ``reopened``, ``worse``, ``better`` or nothing."""

    respond_by: datetime | None
    resolve_by: datetime | None


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """Something that this run found repaired."""

    key: str
    check: str
    object: str
    peak: Level
    summary: str
    opened_at: datetime
    resolved_at: datetime


@dataclass(frozen=True, kw_only=True)
class Check:
    """One look."""

    check: str
    object: str
    task_id: str
    state: Literal["ok", "finding", "unknown"]
    level: Level
    """Of its worst finding; of the check itself when it could not look."""

    summaries: tuple[str, ...]
    """One line per finding."""

    reason: str
    explained_by: str
    facts: Mapping[str, Any]
    started_at: datetime
    seconds: float
    looks: int


@dataclass(frozen=True, kw_only=True)
class Area:
    """The checks of one part of the platform."""

    name: str
    checks: tuple[Check, ...]

    def count(self, state: str) -> int:
        return sum(check.state == state for check in self.checks)


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Something that should have left a trace in this run and did not."""

    what: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Deed:
    """One action: what it was done to, before and after."""

    capability: str
    verb: str
    object: str
    task_id: str
    try_number: int
    state: Literal["open", "done", "failed", "skipped", "abandoned"]
    dry_run: bool
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    reason: str
    started_at: datetime
    seconds: float | None
    """None while it is open."""

    bytes: int | None
    """Space it gave back; None when it is not about space."""

    plan: str
    """First characters of its plan's digest."""


@dataclass(frozen=True, kw_only=True)
class PlanMade:
    """What was meant to be done, stored before it was done."""

    capability: str
    task_id: str
    digest: str
    dry_run: bool
    created_at: datetime
    items_total: int
    items: tuple[Any, ...]
    """The first of them."""

    actions_begun: int


@dataclass(frozen=True, kw_only=True)
class Told:
    """One message to somebody."""

    key: str
    channel: str
    event: Literal["trigger", "resolve"]
    level: Level
    state: Literal["pending", "delivered", "failed"]
    attempts: int
    created_at: datetime
    delivered_at: datetime | None
    answer: str


@dataclass(frozen=True, kw_only=True)
class Trend:
    """How one measurement went over the last days."""

    metric: str
    object: str
    first_at: datetime
    last_at: datetime
    last: float
    least: float
    most: float
    samples: int
    points: tuple[tuple[int, float], ...]
    """``(part of the time, 0 to 60; average)``, oldest first."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of the run, as Airflow knew it when the report was made."""

    task_id: str
    state: str
    url: str
    why: str = ""
    """Whose work made this task's own unnecessary; empty for one that worked."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """One run of one platform."""

    format: int
    platform: str
    title: str
    owner: str
    dag_id: str
    run_id: str
    began_at: datetime | None
    """First trace in the ledger; None when the run left none at all."""

    made_at: datetime
    run_url: str
    verdict: Verdict
    headline: str
    """The verdict in a few words: ``2 findings, worst P1 Critical``."""

    sentence: str
    """The whole run in one sentence, with its numbers."""

    findings: tuple[OpenFinding, ...]
    """Open now, the worst first."""

    resolved: tuple[Resolved, ...]
    areas: tuple[Area, ...]
    gaps: tuple[Gap, ...]
    actions: tuple[Deed, ...]
    plans: tuple[PlanMade, ...]
    told: tuple[Told, ...]
    trends: tuple[Trend, ...]
    tasks: tuple[Task, ...]
    notices: tuple[str, ...]
    """What is not shown, and where it is."""

    @property
    def checks(self) -> tuple[Check, ...]:
        return tuple(check for area in self.areas for check in area.checks)
