"""What VACUUM and ANALYZE would do in the coming daily windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from upkeep.errors import LedgerError
from upkeep.health.postgres_server import span
from upkeep.plan import Asked, Planned, Slot
from upkeep.platforms.services import Vacuum
from upkeep.postgres.needs import Arm, Need, tables_in_need
from upkeep.postgres.rate import UNKNOWN_RATE, Rate, learned
from upkeep.postgres.vacuum import gentle

ACTS = {"freeze": "VACUUM (FREEZE, ANALYZE)", "vacuum": "VACUUM (ANALYZE)", "analyze": "ANALYZE"}
LOCKS = "ShareUpdateExclusive; reads and writes go on, DDL on that table would wait"

FORESEEN_FROM = 0.1
"""Share of the threshold from which on it is foreseen when a table will pass it."""

LEAST_HISTORY = timedelta(hours=6)
"""Since its last VACUUM or ANALYZE; what happened within an hour says nothing about a week."""


def coming(asked: Asked) -> list[Planned]:
    """Tables in need now, in the next window; tables that will be by then, in the windows after it."""
    windows, section = asked.windows("daily"), asked.platform.postgres
    if not windows or section is None:
        return []
    rate = _rate(asked)
    settings = section.vacuum
    with gentle(asked.maintenance, settings) as connection:
        found = tables_in_need(connection, settings, foreseen_from=FORESEEN_FROM)
    needs = [need for need in found if need.arm == "freeze" or _due(need) >= settings.least_score]
    due = {need.table for need in needs}
    foreseen = [need for need in found if need.table not in due]
    return list(_filled(windows, needs[: settings.most_tables], foreseen, settings, rate, datetime.now(UTC)))


def _due(need: Need) -> float:
    """Its score without age, which makes a table due by the arm ``freeze`` alone."""
    return max(float(need.facts[part]) for part in _SCORES)


_SCORES = ("dead_score", "insert_score", "analyze_score", "root_score", "missing_score")


def _rate(asked: Asked) -> Rate:
    try:
        return learned(asked.ledger, asked.platform.name) if asked.ledger else UNKNOWN_RATE
    except LedgerError:
        return UNKNOWN_RATE


def _filled(
    windows: Sequence[Slot],
    needs: Sequence[Need],
    foreseen: Sequence[Need],
    settings: Vacuum,
    rate: Rate,
    now: datetime,
) -> Iterator[Planned]:
    """Window by window; what does not fit into one waits for the next."""
    waiting = list(needs)
    for number, slot in enumerate(windows):
        if number:
            due = [then for need in foreseen if (then := _by_then(need, slot.starts, now, settings))]
            waiting += sorted(due, key=lambda need: -need.score)
            foreseen = [need for need in foreseen if need.table not in {each.table for each in due}]
        left, later = slot.length.total_seconds(), []
        for need in waiting:
            seconds = rate.seconds(need)
            why_not = _left_out(need, seconds, left, slot.length.total_seconds())
            if not why_not:
                left -= seconds
            elif need.allowed and not need.in_vain and seconds <= slot.length.total_seconds():
                later.append(need)
            yield Planned(
                slot=slot,
                object=need.table,
                act=ACTS[need.arm],
                seconds=seconds,
                bytes=need.work_bytes,
                locks=LOCKS,
                because=need.because,
                left_out=why_not,
            )
        waiting = later


def _left_out(need: Need, seconds: float, left: float, whole: float) -> str:
    if not need.allowed:
        return "this role may not maintain it; `python -m upkeep check` says which grant is missing"
    if need.in_vain:
        return need.in_vain
    if need.arm != "freeze" and seconds > whole:
        return f"it would take about {span(seconds)}, and the whole window is {span(whole)}: widen it"
    if need.arm != "freeze" and seconds > left:
        return f"it would take about {span(seconds)}, and {span(max(left, 0))} of the window would be left"
    return ""


def _by_then(need: Need, starts: datetime, now: datetime, settings: Vacuum) -> Need | None:
    """The need as it will be, if rows go on to die and change as they did since it was last cared for."""

    def score(parts: Sequence[str], runs: Sequence[str]) -> float:
        last = max((need.facts[run] for run in runs if need.facts[run]), default=None)
        if last is None or (since := now - datetime.fromisoformat(last)) < LEAST_HISTORY:
            return 0
        return float(max(need.facts[part] for part in parts)) * ((starts - now) / since + 1)

    dead = score(("dead_score", "insert_score"), ("last_vacuum", "last_autovacuum"))
    changed = score(("analyze_score", "root_score"), ("last_analyze", "last_autoanalyze"))
    if max(dead, changed) < settings.least_score:
        return None
    because = f"by then about {max(dead, changed):.1f} × the threshold, if autovacuum has not been there"
    arm: Arm = "vacuum" if dead >= settings.least_score else "analyze"
    return replace(need, arm=arm, score=max(dead, changed), because=because, in_vain="")
