"""Collecting from the ledger what one run saw, did and told."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from upkeep.findings import Severity
from upkeep.ledger import Ledger
from upkeep.platforms import Platform
from upkeep.report import foreign, verdict
from upkeep.report.expected import SECTIONS, Trace, area_of, gaps
from upkeep.report.model import (
    DELETING,
    FORMAT,
    Area,
    Check,
    Deed,
    Level,
    OpenFinding,
    PlanMade,
    Report,
    Resolved,
    Task,
    Told,
    Trend,
)
from upkeep.settings import ROOT, settings

SQL = ROOT / "include" / "sql" / "report"

MOST = {"outcomes": 1000, "findings": 200, "actions": 1000, "plans": 100, "told": 200, "trends": 24}
"""Rows shown of each kind; a page of more is not read. What is left out is said in the report's notices."""

MOST_ITEMS = 200
"""Items shown of one plan; the query cuts there as well."""

TREND = timedelta(days=30)
"""How far back measurements are drawn, and how long a check that was made before is missed."""


def gather(
    ledger: Ledger,
    platform: Platform,
    dag_id: str,
    run_id: str,
    *,
    states: Mapping[str, str] | None = None,
    sections: Collection[str] = SECTIONS,
    now: datetime | None = None,
) -> Report:
    """
    The report of one run.

    :param states: of the run's tasks, as Airflow knows them: ``{"health": "failed", "vacuum[3]": "success"}``.
    :param sections: of the platform file that this Dag looks after; one that left no trace is a gap.
    :param now: what "open now" and "since" refer to.
    :raises LedgerError: the ledger cannot be used.
    """
    now = now or datetime.now(UTC)
    run = {"platform": platform.name, "dag_id": dag_id, "run_id": run_id}
    notices: list[str] = []
    with ledger.transaction() as connection:
        # All of it as of one moment, although other runs go on writing.
        connection.execute("set transaction isolation level repeatable read, read only")

        def ask(question: str, limit: str = "", **more: Any) -> list[dict[str, Any]]:
            most = MOST.get(limit)
            rows = ledger.rows((SQL / f"{question}.sql").read_text(), {**run, **more, "most": most})
            if most and rows and (total := rows[0].get("total", 0)) > len(rows):
                notices.append(f"{len(rows):,} of {total:,} {limit} are shown; the ledger has them all.")
            return rows

        known = next(iter(ask("run")), None)
        began = known["first_seen_at"] if known else None
        levels = _Levels(platform)
        checks = [_check(row, levels) for row in ask("outcomes", "outcomes")]
        findings = tuple(_finding(row, levels) for row in ask("open_findings", "findings"))
        resolved = tuple(_resolved(row, levels) for row in ask("resolved_findings", "findings"))
        deeds = tuple(sorted((_deed(row) for row in ask("actions", "actions")), key=lambda deed: deed.started_at))
        plans = tuple(_plan(row) for row in ask("plans", "plans"))
        told = tuple(_told(row, levels) for row in ask("told", "told", since=began or now))
        trends = tuple(_trend(row) for row in ask("trends", "trends", since=now - TREND, until=now))
        before = ask("checks_before", since=now - TREND, before=began or now)
        covered = {row["task_id"]: foreign.text(row["reason"]) for row in ask("covered")}
    areas = _areas(checks)
    tasks = tuple(
        Task(
            task_id=foreign.text(task_id, 250),
            state=state or "not started",
            url=_task_url(dag_id, run_id, task_id),
            why=covered.get(task_id, ""),
        )
        for task_id, state in sorted((states or {}).items())
    )
    missing = gaps(
        platform,
        # What this run did not look at, the one that covers it did.
        () if covered else sections,
        [Trace(check.check, check.object, check.facts) for check in checks],
        {deed.capability for deed in deeds} | {plan.capability for plan in plans},
        {} if covered else {row["check_name"]: row["last_at"] for row in before},
        {task.task_id: task.state for task in tasks},
        {check.task_id for check in checks} | {deed.task_id for deed in deeds},
    )
    seen = verdict.Seen(
        findings=findings,
        resolved=resolved,
        areas=areas,
        gaps=missing,
        actions=deeds,
        tasks=tasks,
        covered=len(covered),
    )
    decided = verdict.judge(seen)
    return Report(
        format=FORMAT,
        platform=platform.name,
        title=foreign.text(platform.title),
        owner=platform.owner,
        dag_id=foreign.text(dag_id),
        run_id=foreign.text(run_id),
        began_at=began,
        made_at=now,
        run_url=f"{settings().airflow_url}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}",
        verdict=decided,
        headline=verdict.headline(seen, decided),
        sentence=verdict.sentence(seen, decided),
        findings=findings,
        resolved=resolved,
        areas=areas,
        gaps=missing,
        actions=deeds,
        plans=plans,
        told=told,
        trends=trends,
        tasks=tasks,
        notices=tuple(notices),
    )


class _Levels:
    """Severities in the platform's own words."""

    def __init__(self, platform: Platform) -> None:
        self.levels = platform.severity.levels

    def __call__(self, severity: str) -> Level:
        level = self.levels.get(Severity(severity))
        return Level(
            severity=severity,
            name=level.name if level else severity,
            respond_s=level.respond.total_seconds() if level else None,
            resolve_s=level.resolve.total_seconds() if level else None,
        )


def _areas(checks: Iterable[Check]) -> tuple[Area, ...]:
    """What is wrong first, then by name."""
    by_name: dict[str, list[Check]] = {}
    for check in checks:
        by_name.setdefault(area_of(check.check, check.task_id), []).append(check)
    rank = {"finding": 0, "unknown": 1, "ok": 2}
    areas = [
        Area(name=name, checks=tuple(sorted(these, key=lambda c: (rank[c.state], c.check, c.object))))
        for name, these in by_name.items()
    ]
    return tuple(sorted(areas, key=lambda area: (rank[area.checks[0].state], area.name)))


def _check(row: Mapping[str, Any], levels: _Levels) -> Check:
    found = row["findings"]
    worst = min((finding["severity"] for finding in found), default=row["severity"])
    return Check(
        check=row["check_name"],
        object=foreign.text(row["object"], 500),
        task_id=row["task_id"],
        state=row["state"],
        level=levels(worst if row["state"] == "finding" else row["severity"]),
        summaries=tuple(foreign.text(_named(row, finding)) for finding in found[:20])
        + ((f"… and {len(found) - 20:,} more",) if len(found) > 20 else ()),
        reason=foreign.text(row["reason"]),
        explained_by=row["explained_by"],
        facts=foreign.facts(row["facts"]),
        started_at=_utc(row["started_at"]),
        seconds=row["seconds"],
        looks=row["looks"],
    )


def _named(row: Mapping[str, Any], finding: Mapping[str, Any]) -> str:
    """A finding of a check that looks at many things says which."""
    object = finding.get("object") or ""
    return f"{object}: {finding['summary']}" if object and object != row["object"] else str(finding["summary"])


def _finding(row: Mapping[str, Any], levels: _Levels) -> OpenFinding:
    level = levels(row["severity"])
    opened = _utc(row["opened_at"])
    return OpenFinding(
        key=foreign.text(row["key"], 1000),
        check=row["check_name"],
        object=foreign.text(row["object"], 500),
        kind=row["kind"],
        level=level,
        peak=row["peak"],
        summary=foreign.text(row["summary"]),
        hint=foreign.text(row["hint"]),
        facts=foreign.facts(row["facts"]),
        looks=row["looks"],
        opened_at=opened,
        last_seen_at=_utc(row["last_seen_at"]),
        seen_by_run=row["seen_by_run"],
        event=row["event"],
        respond_by=opened + timedelta(seconds=level.respond_s) if level.respond_s else None,
        resolve_by=opened + timedelta(seconds=level.resolve_s) if level.resolve_s else None,
    )


def _resolved(row: Mapping[str, Any], levels: _Levels) -> Resolved:
    return Resolved(
        key=foreign.text(row["key"], 1000),
        check=row["check_name"],
        object=foreign.text(row["object"], 500),
        peak=levels(row["peak"]),
        summary=foreign.text(row["summary"]),
        opened_at=_utc(row["opened_at"]),
        resolved_at=_utc(row["resolved_at"]),
    )


def _deed(row: Mapping[str, Any]) -> Deed:
    return Deed(
        capability=row["capability"],
        verb=row["verb"],
        object=foreign.text(row["object"], 500),
        task_id=row["task_id"],
        try_number=row["try_number"],
        state=row["state"],
        dry_run=row["dry_run"],
        before=foreign.facts(row["before"]),
        after=foreign.facts(row["after"]),
        reason=foreign.text(row["reason"]),
        started_at=_utc(row["started_at"]),
        seconds=row["seconds"],
        bytes=freed(row["verb"], row["before"], row["after"]),
        plan=(row["digest"] or "")[:12],
    )


def freed(verb: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> int | None:
    """
    Space that an action gave back, in bytes; negative when its object grew.

    Either the action says so (``bytes_freed``), or it deleted things and counted their ``bytes``, or it measured
    ``bytes`` (or ``…_bytes``) of its object before and after.
    """
    told = ("bytes_freed", "freed_bytes", *(("bytes",) if verb in DELETING else ()))
    for name in told:
        if isinstance(after.get(name), (int, float)):
            return int(after[name])
    if verb in DELETING:
        return None
    for name, had in before.items():
        has = after.get(name)
        if name.split("_")[-1] == "bytes" and isinstance(had, (int, float)) and isinstance(has, (int, float)):
            return int(had - has)
    return None


def _plan(row: Mapping[str, Any]) -> PlanMade:
    return PlanMade(
        capability=row["capability"],
        task_id=row["task_id"],
        digest=row["digest"],
        dry_run=row["dry_run"],
        created_at=_utc(row["created_at"]),
        items_total=row["items_total"],
        items=foreign.entries(row["items"], MOST_ITEMS),
        actions_begun=row["actions_begun"],
    )


def _told(row: Mapping[str, Any], levels: _Levels) -> Told:
    return Told(
        key=foreign.text(row["key"], 1000),
        channel=row["channel"],
        event=row["event"],
        level=levels(row["severity"]),
        state=row["state"],
        attempts=row["attempts"],
        created_at=_utc(row["created_at"]),
        delivered_at=_utc(row["delivered_at"]) if row["delivered_at"] else None,
        answer=foreign.text(row["answer"], 300),
    )


def _trend(row: Mapping[str, Any]) -> Trend:
    return Trend(
        metric=row["metric"],
        object=foreign.text(row["object"], 200),
        first_at=_utc(row["first_at"]),
        last_at=_utc(row["last_at"]),
        last=row["last_value"],
        least=row["least"],
        most=row["most"],
        samples=row["samples"],
        points=tuple(zip(row["parts"], row["points"], strict=True)),
    )


def _task_url(dag_id: str, run_id: str, task_id: str) -> str:
    run = f"{settings().airflow_url}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"
    return f"{run}/tasks/{quote(verdict.unmapped(task_id), safe='')}"


def _utc(at: datetime) -> datetime:
    return at.astimezone(UTC)
