"""The plan for people (a table) and for machines (JSON)."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from upkeep.health.postgres_server import size, span
from upkeep.plan.gather import Coming
from upkeep.plan.model import Planned, Slot

BOLD, DIM, GREEN, YELLOW, MAGENTA = "1", "2", "32", "33", "1;35"

SHOWN = 15
"""Items of one window and job, unless all are asked for."""


def as_json(plans: Sequence[Coming], *, now: datetime, days: float) -> str:
    """
    ``{"from", "days", "complete", "platforms": [{"name", "title", "unknown": {job: reason}, "windows": [{"name",
    "starts", "ends", "seconds", "bytes", "items": [{"job", "object", "act", "seconds", "bytes", "locks", "because",
    "left_out"}]}]}]}``; windows in which nothing is due have no items.
    """
    document: dict[str, Any] = {
        "from": now.astimezone(UTC).isoformat(),
        "days": days,
        "complete": not any(plan.unknown for plan in plans),
        "platforms": [
            {
                "name": plan.platform.name,
                "title": plan.platform.title,
                "unknown": dict(plan.unknown),
                "windows": [_window(plan, slot) for slot in plan.slots],
            }
            for plan in plans
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def _window(plan: Coming, slot: Slot) -> dict[str, Any]:
    items = [(job, each) for job, them in plan.jobs.items() for each in them if each.slot == slot]
    done = [each for _, each in items if not each.left_out]
    return {
        "name": slot.name,
        "starts": slot.starts.isoformat(),
        "ends": (slot.starts + slot.length).isoformat(),
        "seconds": round(sum(each.seconds or 0 for each in done), 2),
        "bytes": sum(each.bytes or 0 for each in done),
        "items": [
            {
                "job": job, "object": each.object, "act": each.act, "seconds": each.seconds, "bytes": each.bytes,
                "locks": each.locks, "because": each.because, "left_out": each.left_out,
            }
            for job, each in items
        ],
    }  # fmt: skip


def table(plans: Sequence[Coming], *, colour: bool, width: int, everything: bool = False) -> Iterator[str]:
    """Lines for a terminal: per platform its windows, what each would do, what it would leave out and why."""

    def paint(text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if colour and code and text else text

    for plan in plans:
        yield paint(plan.platform.name, BOLD) + paint(f"  {plan.platform.title}", DIM)
        for job, reason in plan.unknown.items():
            yield f"  {paint('unknown', MAGENTA)}  what {job} would do: {reason}"
        busy = {each.slot for them in plan.jobs.values() for each in them}
        for slot in (slot for slot in plan.slots if slot in busy):
            starts, ends = f"{slot.starts:%a %d %b %H:%M}", f"{slot.starts + slot.length:%H:%M}"
            yield f"  {paint(starts, BOLD)}  {slot.name}, until {ends} UTC"
            for job, them in plan.jobs.items():
                yield from _job(job, [each for each in them if each.slot == slot], paint, width, everything)
        idle = [slot for slot in plan.slots if slot not in busy]
        if idle and not plan.unknown:
            yield paint(f"  nothing is due in {'any other' if busy else 'any'} window: {_names(idle)}", DIM)
        yield from _locks(plan, paint)
        yield ""


def _job(job: str, items: list[Planned], paint: Any, width: int, everything: bool) -> Iterator[str]:
    if not items:
        return
    done, left = [each for each in items if not each.left_out], [each for each in items if each.left_out]
    parts = [f"{len(done)} to do"] if done else []
    if done:
        known = [each.seconds for each in done if each.seconds is not None]
        parts += [f"about {span(sum(known))}" if len(known) == len(done) else "time unknown"]
        parts += [size(sum(each.bytes or 0 for each in done))]
    parts += [f"{len(left)} left out"] if left else []
    yield f"    {paint(job, BOLD)}  {', '.join(parts)}"
    names = max(len(each.object) for each in items)
    acts = max(len(each.act) for each in items)
    indent = 6 + names + 2 + acts + 2 + 8 + 2 + 10 + 2
    for some, mark in ((done, ""), (left, "left out: ")):
        shown = some if everything else some[:SHOWN]
        for each in shown:
            seconds = span(each.seconds) if each.seconds is not None else "?"
            volume = size(each.bytes) if each.bytes is not None else "?"
            head = f"      {each.object:<{names}}  {each.act:<{acts}}  {seconds:>8}  {volume:>10}  "
            said, code = mark + (each.left_out or each.because), YELLOW if mark else ""
            # Where a terminal is narrow the reason goes below.
            below = width - indent < 45
            rows = textwrap.wrap(said, width - (10 if below else indent))
            if below:
                yield head.rstrip()
                yield from (" " * 10 + paint(row, code) for row in rows)
            else:
                yield head + paint(rows[0], code)
                yield from (" " * indent + paint(row, code) for row in rows[1:])
        if len(some) > len(shown):
            yield paint(
                f"      … and {len(some) - len(shown)} more{' left out' if mark else ''}; --all shows them", DIM
            )


def _locks(plan: Coming, paint: Any) -> Iterator[str]:
    """Each lock once, with the acts that take it."""
    acts: dict[str, dict[str, None]] = {}
    for them in plan.jobs.values():
        for each in them:
            acts.setdefault(each.locks, {})[each.act] = None
    for number, (lock, takers) in enumerate(acts.items()):
        yield paint(f"  {'locks' if not number else '     '}  {' · '.join(takers)}: {lock}", DIM)


def _names(slots: Sequence[Slot]) -> str:
    counts: dict[str, int] = {}
    for slot in slots:
        counts[slot.name] = counts.get(slot.name, 0) + 1
    return ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counts.items())
