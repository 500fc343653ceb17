"""The doctor's findings for people (a table) and for machines (JSON)."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from upkeep.doctor.verdict import NOTE
from upkeep.findings import Outcome

Mark = Literal["ok", "missing", "unknown", "note"]
COLOURS = {"ok": "32", "missing": "1;31", "unknown": "1;35", "note": "33"}
DIM, BOLD = "2", "1"


@dataclass(frozen=True)
class Part:
    """A heading and what was seen below it: the shared things, or one platform."""

    name: str
    title: str
    outcomes: list[Outcome] = field(default_factory=list)


@dataclass(frozen=True)
class Line:
    mark: Mark
    object: str
    check: str
    said: str
    cure: str = ""


def lines(outcomes: Sequence[Outcome]) -> list[Line]:
    """One per finding, or one per outcome without."""
    made = []
    for outcome in outcomes:
        if outcome.state == "ok":
            made.append(Line("ok", outcome.object, outcome.check, str(outcome.facts.get("said", ""))))
        elif outcome.state == "unknown":
            cure = str(outcome.facts.get("cure", ""))
            made.append(Line("unknown", outcome.object, outcome.check, outcome.reason, cure))
        for finding in outcome.findings:
            mark: Mark = "note" if finding.severity is NOTE else "missing"
            made.append(Line(mark, finding.object or outcome.object, finding.check, finding.summary, finding.hint))
    return made


def complete(parts: Sequence[Part]) -> bool:
    """Nothing is missing, and everything could be looked at."""
    return all(line.mark in ("ok", "note") for part in parts for line in lines(part.outcomes))


def as_json(parts: Sequence[Part]) -> str:
    """``{"complete": …, "parts": [{"name", "title", "checks": [{"state", "object", "check", "said", "cure"}]}]}``"""
    document: dict[str, Any] = {"complete": complete(parts), "parts": []}
    for part in parts:
        checks = [
            {"state": line.mark, "object": line.object, "check": line.check, "said": line.said, "cure": line.cure}
            for line in lines(part.outcomes)
        ]
        document["parts"].append({"name": part.name, "title": part.title, "checks": checks})
    return json.dumps(document, indent=2, ensure_ascii=False)


def table(parts: Sequence[Part], *, colour: bool, width: int, everything: bool = False) -> Iterator[str]:
    """
    Lines for a terminal.

    What is well takes one line per connection, unless ``everything`` is asked for; the words ok, missing, unknown
    and note stand in the first column whatever the colours.
    """

    def paint(text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if colour else text

    all_lines = {part.name: lines(part.outcomes) for part in parts}
    indent = 2 + 7 + 2 + max((len(line.object) for them in all_lines.values() for line in them), default=0) + 2
    for part in parts:
        yield paint(part.name, BOLD) + paint(f"  {part.title}", DIM)
        for object in dict.fromkeys(line.object for line in all_lines[part.name]):
            about = [line for line in all_lines[part.name] if line.object == object]
            shown = about if everything else _short(about)
            name = object
            for line in shown:
                head = f"  {paint(f'{line.mark:<7}', COLOURS[line.mark])}  {name:<{indent - 13}}  "
                said = line.said if len(about) == 1 or (line.mark == "ok" and not everything) else _with_check(line)
                rows = textwrap.wrap(said, max(40, width - indent)) or [""]
                yield head + rows[0]
                for row in rows[1:]:
                    yield " " * indent + row
                for row in line.cure.splitlines():
                    # Not wrapped: it is there to be copied.
                    yield " " * indent + paint("→ " if row == line.cure.splitlines()[0] else "  ", DIM) + row
                name = ""
        yield ""
    yield _summary([line for them in all_lines.values() for line in them], paint)


def _short(about: list[Line]) -> list[Line]:
    """What is well in one line, then what is not."""
    well = [line for line in about if line.mark == "ok"]
    rest = [line for line in about if line.mark != "ok"]
    if not well:
        return rest
    first, *others = well
    said = first.said if len(well) == 1 else f"{first.said}; {', '.join(line.check for line in others)}"
    return [Line("ok", first.object, first.check, said), *rest]


def _with_check(line: Line) -> str:
    return f"{line.check}: {line.said}"


def _summary(all_lines: Sequence[Line], paint: Callable[[str, str], str]) -> str:
    counts = {mark: sum(line.mark == mark for line in all_lines) for mark in COLOURS}
    if not counts["missing"] and not counts["unknown"]:
        notes = f" {counts['note']} to note." if counts["note"] else ""
        return paint(f"Everything is there: {counts['ok']} checks.", COLOURS["ok"]) + notes
    told = [f"{counts[mark]} {mark}" for mark in ("missing", "unknown", "note", "ok") if counts[mark]]
    worst = "missing" if counts["missing"] else "unknown"
    return paint(", ".join(told), COLOURS[worst]) + ". Do what follows each →, then run it again."
