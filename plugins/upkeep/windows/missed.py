"""Windows that nobody served: the scheduler was down, the Dag was paused, or its run failed and that was that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from upkeep.findings import Finding, Outcome, Severity, judged
from upkeep.ledger import Ledger
from upkeep.platforms import Platform
from upkeep.platforms.alerting import Window
from upkeep.settings import ROOT
from upkeep.windows.timetable import due, timetable

CHECK = "missed_windows"

SEVERITY = Severity.P3
"""The next window makes up for what converges; what each of them shows has its own check and severity."""

LOOKED_AT = 7
"""So many windows back; what is older nobody makes up for."""

GRACE = timedelta(hours=1)
"""So long after its window a run may still be on its way."""


def missed(ledger: Ledger, platform: Platform, now: datetime, zone: str = "UTC") -> list[Outcome]:
    """
    One outcome per Dag that has ever served a window: one that was never unpaused is not in service yet.

    :param zone: Airflow's, in which it reads schedules.
    :raises LedgerError: the ledger cannot be used.
    """
    return [
        outcome
        for dag_id, window in timetable(platform).items()
        if (outcome := _look(ledger, dag_id, window, now, zone)) is not None
    ]


def _look(ledger: Ledger, dag_id: str, window: Window, now: datetime, zone: str) -> Outcome | None:
    row = ledger.rows("select min(due_at) as first from claims where dag_id = %s and due_at is not null", [dag_id])[0]
    if row["first"] is None:
        return None
    late = now - window.length - GRACE
    ticks = [tick for tick in due(window, late, LOOKED_AT, zone) if tick >= row["first"]]
    if not ticks:
        return judged(CHECK, SEVERITY, [], object=dag_id)
    query = (ROOT / "include" / "sql" / "windows" / "served.sql").read_text()
    served = {one["due_at"]: one["undone"] for one in ledger.rows(query, {"dag_id": dag_id, "since": ticks[0]})}
    never = [tick for tick in ticks if tick not in served]
    undone = {tick: served[tick] for tick in ticks if served.get(tick)}
    found = [_finding(dag_id, never, undone)] if never or undone else []
    return judged(CHECK, SEVERITY, found, object=dag_id, windows=len(ticks), missed=len(never), undone=len(undone))


def _finding(dag_id: str, never: Sequence[datetime], undone: Mapping[datetime, Sequence[str]]) -> Finding:
    said = []
    if never:
        said.append(f"{_times(never)} without a run")
    if undone:
        tasks = sorted({task for these in undone.values() for task in these})
        said.append(f"{_times(list(undone))} with a run in which {', '.join(tasks)} did not end well, nor since")
    of = sorted([*never, *undone])
    return Finding(
        check=CHECK,
        object=dag_id,
        severity=SEVERITY,
        summary=f"{len(of)} of the last {LOOKED_AT} windows not served: {'; '.join(said)}",
        hint=f"see that the Dag is not paused and the scheduler runs, then `{command(dag_id, of)}`: what converges is"
        " done once for all of them.",
        facts={"windows": [tick.isoformat() for tick in of]},
    )


def command(dag_id: str, ticks: Sequence[datetime]) -> str:
    """What makes up for these windows; both ends count, windows between them that were served stay as they are."""
    first, last = min(ticks), max(ticks)
    return (
        f"airflow backfill create --dag-id {dag_id} --from-date {first.isoformat()} --to-date {last.isoformat()}"
        " --reprocess-behavior failed"
    )


def _times(ticks: Sequence[datetime]) -> str:
    named = ", ".join(f"{tick:%a %d %b %H:%M}" for tick in sorted(ticks)[-3:])
    return f"{len(ticks)} ({'…, ' if len(ticks) > 3 else ''}{named})"
