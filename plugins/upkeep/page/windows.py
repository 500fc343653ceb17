"""The calendar: what became of each window, day by day."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

from upkeep.ledger import Ledger
from upkeep.page.ask import ask
from upkeep.platforms.alerting import Window
from upkeep.windows.missed import GRACE, LOOKED_AT, command
from upkeep.windows.timetable import between

State = Literal["done", "covered", "running", "missed", "failed"]

WORST_FIRST: tuple[State, ...] = ("failed", "missed", "running", "covered", "done")

SAID: dict[State, str] = {
    "done": "done",
    "covered": "covered: another run did the work",
    "running": "under way, or about to be",
    "missed": "missed: no run",
    "failed": "failed, and not made up for since",
}

YEAR = timedelta(days=366)


@dataclass(frozen=True, kw_only=True)
class Served:
    """One window and what became of it."""

    dag_id: str
    due_at: datetime
    state: State
    said: str = ""
    """Why, where there is more to say than the state does."""

    run_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Calendar:
    """The windows of one Dag, the oldest first."""

    dag_id: str
    window: Window
    served: Sequence[Served]
    first_at: datetime | None
    """The first window it ever served; None: it is not in service yet."""

    counts: Mapping[State, int] = field(default_factory=dict)

    @property
    def wrong(self) -> list[Served]:
        """Those that somebody should look at, the newest first."""
        return [one for one in reversed(self.served) if one.state in ("failed", "missed")]

    @property
    def backfill(self) -> str:
        """What makes up for those of the last windows that were missed or failed; what is older nobody makes up for."""
        lately = [one.due_at for one in self.served[-LOOKED_AT:] if one.state in ("failed", "missed")]
        return command(self.dag_id, lately) if lately else ""


def calendars(
    ledger: Ledger, windows: Mapping[str, Window], now: datetime, *, back: timedelta = YEAR, zone: str = "UTC"
) -> dict[str, Calendar]:
    """
    By Dag id.

    :param windows: of the Dags that are asked for, by their id.
    :param back: how far to look back.
    :param zone: Airflow's, in which it reads schedules.
    """
    since = now - back
    dag_ids = list(windows)
    first = {row["dag_id"]: row["due_at"] for row in ask(ledger, "first_windows", dag_ids=dag_ids)}
    rows: dict[str, dict[datetime, Mapping[str, Any]]] = {dag_id: {} for dag_id in dag_ids}
    for row in ask(ledger, "windows", dag_ids=dag_ids, since=since):
        rows[row["dag_id"]][row["due_at"].astimezone(UTC)] = row
    made = {}
    for dag_id, window in windows.items():
        served: list[Served] = []
        if dag_id in first:
            due = between(window, max(since, first[dag_id]), now, zone)
            served = _served(dag_id, window, due, rows[dag_id], now)
        counts = {state: sum(one.state == state for one in served) for state in WORST_FIRST}
        made[dag_id] = Calendar(dag_id=dag_id, window=window, served=served, first_at=first.get(dag_id), counts=counts)
    return made


def _served(
    dag_id: str, window: Window, due: Sequence[datetime], rows: Mapping[datetime, Mapping[str, Any]], now: datetime
) -> list[Served]:
    late = now - window.length - GRACE
    # Windows of an earlier timetable stand for themselves, and for those that today's would have had in their place.
    others = sorted(rows.keys() - set(due))
    found = [_of_row(dag_id, at, row, late) for at, row in rows.items()]
    for number, at in enumerate(due):
        if at in rows:
            continue
        before = due[number - 1] if number else datetime.min.replace(tzinfo=UTC)
        after = due[number + 1] if number + 1 < len(due) else now
        place = bisect_right(others, before)
        if place < len(others) and others[place] < after:
            continue
        state: State = "missed" if at <= late else "running"
        found.append(Served(dag_id=dag_id, due_at=at, state=state))
    return sorted(found, key=lambda one: one.due_at)


def _of_row(dag_id: str, at: datetime, row: Mapping[str, Any], late: datetime) -> Served:
    state: State
    if row["working"] and at > late:
        state, said = "running", ""
    elif row["undone"]:
        reason = f": {row['undone_reason']}" if row["undone_reason"] else ""
        state, said = "failed", f"{', '.join(row['undone'])} did not end well{reason}"
    elif row["made_up"]:
        state, said = "covered", f"{', '.join(row['made_up'])} went wrong; a later run has done it"
    elif row["covered"]:
        state, said = "covered", row["covered_reason"] or ""
    else:
        state, said = "done", ""
    return Served(dag_id=dag_id, due_at=at, state=state, said=said, run_id=row["run_id"])


def worst(states: Iterable[State]) -> State | None:
    """The one of several that people should see."""
    found = set(states)
    return next((state for state in WORST_FIRST if state in found), None)


@dataclass(frozen=True)
class Day:
    """One day in a row of days."""

    on: date
    state: State | None
    """None: nothing was due."""

    said: str
    """Which of them is not simply done."""


def days(made: Iterable[Calendar], now: datetime, count: int = 14) -> list[Day]:
    """The last days of some Dags together, the oldest first; each as the worst of its windows."""
    by_day: dict[date, list[Served]] = {}
    for calendar in made:
        for one in calendar.served:
            by_day.setdefault(one.due_at.date(), []).append(one)
    found = []
    for back in reversed(range(count)):
        on = now.date() - timedelta(days=back)
        these = by_day.get(on, [])
        said = ", ".join(f"{one.dag_id} {one.state}" for one in these if one.state != "done")
        found.append(Day(on, worst(one.state for one in these), said))
    return found


@dataclass(frozen=True)
class Month:
    """One month's sheet of a calendar: a row per week, Monday first."""

    first: date
    weeks: int
    cells: Sequence[tuple[int, int, Served | None]]
    """Column and row of each of its days up to today, and the window of that day."""


def months(calendar: Calendar, now: datetime) -> list[Month]:
    """The sheets from the first window to today, the newest first."""
    if not calendar.served:
        return []
    by_day: dict[date, Served] = {}
    for one in calendar.served:
        on = one.due_at.date()
        if on not in by_day or WORST_FIRST.index(one.state) < WORST_FIRST.index(by_day[on].state):
            by_day[on] = one
    sheets, day = [], min(by_day).replace(day=1)
    while day <= now.date():
        first, cells = day, []
        while day.month == first.month and day <= now.date():
            cells.append((day.weekday(), (first.weekday() + day.day - 1) // 7, by_day.get(day)))
            day += timedelta(days=1)
        sheets.append(Month(first, cells[-1][1] + 1, cells))
    return sheets[::-1]
