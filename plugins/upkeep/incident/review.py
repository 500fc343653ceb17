"""The review of an incident, written from its timeline: what happened, how long it took, what is left to learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from upkeep.incident.record import Incident
from upkeep.incident.states import review_due
from upkeep.platforms import Platform


def document(platform: Platform, incident: Incident, rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown; what people must write is asked, not invented."""
    level = platform.severity.levels.get(incident.severity)
    name = platform.severity_name(incident.severity)
    due = review_due(incident.resolved_at or incident.declared_at, incident.severity)
    lines = [
        f"# Review: {_cell(incident.title)}",
        "",
        f"Incident `{incident.id}` · {platform.title} · {name} ({incident.severity})"
        + (" · **drill**, not counted" if incident.drill else ""),
        f"Review due {due:%Y-%m-%d} · status: draft",
        "",
        "| | after | should be within |",
        "|---|---|---|",
        f"| acknowledged | {_after(incident, incident.acknowledged_at)} | {_clock(level.respond if level else None)} |",
        f"| mitigated | {_after(incident, incident.mitigated_at)} | |",
        f"| resolved | {_after(incident, incident.resolved_at)} | {_clock(level.resolve if level else None)} |",
        "",
        "## What happened",
        "",
        "| UTC | who | what |",
        "|---|---|---|",
    ]
    lines += [
        f"| {row['at']:%Y-%m-%d %H:%M:%S} | {_cell(row['actor'])} | {_cell(row['kind'])}: {_cell(row['said'])} |"
        for row in rows
    ]
    asked = ("What did customers notice?", "Why did it happen?", "Why was it not found before?", "What went well?")
    for question in asked:
        lines += ["", f"## {question}", "", "_To be written._"]
    lines += ["", "## What will be done", "", "| what | who | until | ticket |", "|---|---|---|---|", "| | | | |", ""]
    return "\n".join(lines)


def _after(incident: Incident, at: datetime | None) -> str:
    return "–" if at is None else _clock(at - incident.declared_at)


def _clock(value: timedelta | None) -> str:
    if value is None:
        return "–"
    minutes = round(value.total_seconds() / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _cell(said: str) -> str:
    """Foreign text in a table's cell: one line, and nothing in it is markdown or HTML."""
    one_line = " ".join(said.split())
    for sign in "\\`*_[]<>|#":
        one_line = one_line.replace(sign, f"\\{sign}")
    return one_line if len(one_line) <= 1000 else f"{one_line[:1000]} … ({len(one_line)} characters)"
