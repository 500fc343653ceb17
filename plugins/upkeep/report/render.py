"""A report as one HTML page, as canonical JSON, and as a few lines for a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from types import NoneType
from typing import TYPE_CHECKING, Any

from upkeep.report import wording
from upkeep.report.model import DELETING, Deed, Report, Trend
from upkeep.report.verdict import deeds as deeds_said
from upkeep.settings import ROOT

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = ROOT / "include" / "templates"

SUBJECTS = ("statement", "index", "table", "sequence", "setting", "object")
"""Names of the column that says what a row of a table is about."""

UNFOLDED = 25
"""A group of more actions than this, all well, is shown folded."""


def render_json(report: Report) -> bytes:
    """Sorted keys, no blanks, UTF-8, times as ``2026-11-14T02:00:00.000000Z``, one newline at the end."""
    text = json.dumps(
        asdict(report), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain
    )
    return f"{text}\n".encode()


def render_html(report: Report) -> bytes:
    """One file that asks for nothing else: style and plots are inside, everything foreign is escaped."""
    groups: dict[tuple[str, str], list[Deed]] = {}
    for deed in report.actions:
        groups.setdefault((deed.capability, deed.verb), []).append(deed)
    page = (
        environment()
        .get_template("report.html")
        .render(
            report=report,
            groups=[_group(*key, deeds) for key, deeds in groups.items()],
            done=deeds_said(report.actions),
            # The headline stands above it already.
            rest=report.sentence.removeprefix(f"{report.headline}; "),
            tables=_tables(report),
            trends=[_spark(trend) for trend in report.trends],
        )
    )
    return page.encode("utf-8", "replace")


def summary_text(report: Report, url: str = "") -> str:
    """
    The report for a terminal: verdict, what is open and what to do, what was not looked at, where there is more.

    Every line is a line: foreign text cannot break out of it.
    """
    lines = [f"{report.title} {report.dag_id}: {report.verdict.upper()}: {report.sentence}"]
    for finding in report.findings:
        name = f"{finding.check} {finding.object}".strip()
        lines.append(f"  {finding.level.name}  {name}: {finding.summary}")
        if finding.hint:
            lines.append(f"      do: {finding.hint}")
    lines += [f"  repaired  {was.check} {was.object}: {was.summary}" for was in report.resolved]
    lines += [f"  not looked at  {gap.what}: {gap.why}" for gap in report.gaps]
    lines += [f"  not again  {task.task_id}: {task.why}" for task in report.tasks if task.why]
    lines += [
        f"  {deed.state}  {deed.capability} {deed.verb} {deed.object}: {deed.reason or 'no reason given'}"
        for deed in report.actions
        if deed.state in ("failed", "abandoned", "open")
    ]
    told = [message for message in report.told if message.state == "delivered"]
    waiting = len(report.told) - len(told)
    if report.told:
        lines.append(f"  told: {wording.counted(len(told), 'message')} delivered, {waiting} waiting or refused")
    if url:
        lines.append(f"  report: {url}")
    return "\n".join(line[:500].replace("\n", " ").replace("\t", " ") for line in lines)


@cache
def environment() -> Environment:
    """The templates, with what they need to say things to people. Escapes by default, refuses unknown names."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "about": wording.about,
        "after": lambda text, prefix: text.removeprefix(f"{prefix}_"),
        "clock": wording.clock,
        "counted": wording.counted,
        "fact": lambda value, name: wording.fact(name, value),
        "facts_line": wording.facts_line,
        "first_upper": lambda text: text[:1].upper() + text[1:],
        "hour": wording.hour,
        "label": wording.label,
        "simple": wording.simple,
        "span": wording.span,
        "times": lambda count: "once" if count == 1 else f"{wording.number(count)} times",
        "words": wording.words,
    }
    return made


@dataclass(frozen=True)
class _Row:
    """One action, ready to be shown."""

    object: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    changes: list[tuple[str, str, str]]
    freed: str
    took: str
    state: str
    reason: str
    dry_run: bool
    try_number: int


def _group(capability: str, verb: str, deeds: list[Deed]) -> dict[str, Any]:
    states = [
        state for state in ("failed", "abandoned", "open", "skipped", "done") if any(d.state == state for d in deeds)
    ]
    said = [f"{sum(d.state == state for d in deeds)} {state}" for state in reversed(states)]
    freed = sum(deed.bytes or 0 for deed in deeds)
    if freed > 0:
        said.append(f"{wording.size(freed)} freed")
    said.append(f"took {wording.span(sum(deed.seconds or 0 for deed in deeds))}")
    well = states[0] in ("skipped", "done")
    return {
        "name": f"{wording.words(capability)} · {wording.words(verb)}",
        "state": "ok" if well else states[0],
        "said": ", ".join(said),
        "sides": ("planned", "deleted") if verb in DELETING else ("before", "after"),
        "freed": any(deed.bytes and deed.bytes > 0 for deed in deeds),
        "open": not well or len(deeds) <= UNFOLDED,
        "deeds": [
            _Row(
                object=deed.object,
                before=deed.before,
                after=deed.after,
                changes=wording.change(deed.before, deed.after),
                freed=wording.size(deed.bytes) if deed.bytes and deed.bytes > 0 else "",
                took=wording.span(deed.seconds) if deed.seconds is not None else "",
                state=deed.state,
                reason=deed.reason,
                dry_run=deed.dry_run,
                try_number=deed.try_number,
            )
            for deed in sorted(deeds, key=lambda d: (states.index(d.state), d.started_at))
        ],
    }


def _tables(report: Report) -> list[dict[str, Any]]:
    """Facts that are lists of records, each a table of its own: ``{"largest": [{"table": …, "bytes": …}, …]}``."""
    made = []
    for check in report.checks:
        for name, value in check.facts.items():
            if not wording.is_table(value):
                continue
            rows = [row for row in value if isinstance(row, Mapping)]
            told = [key for key in rows[0] if any(row.get(key) not in (None, "") for row in rows)]
            numeric = {key for key in told if all(isinstance(row.get(key), (int, float, NoneType)) for row in rows)}
            # The ledger's JSON keeps no order: what a row is about comes first, numbers come last.
            columns = sorted(told, key=lambda key: (key not in SUBJECTS, key in numeric))
            made.append(
                {
                    "check": " ".join((check.check, check.object)).strip(),
                    "name": wording.words(name),
                    "columns": columns,
                    "numeric": numeric,
                    "rows": rows,
                    "cut": next((entry for entry in value if isinstance(entry, str)), ""),
                }
            )
    # What has the most to tell comes first.
    return sorted(made, key=lambda table: -len(table["columns"]))


def _spark(trend: Trend) -> dict[str, Any]:
    """A line through the averages; 240 wide, 40 high, the value upwards."""
    low, high = min(value for _, value in trend.points), max(value for _, value in trend.points)
    points = [
        (round(part * 240 / 60, 1), round(38 - 36 * ((value - low) / (high - low) if high > low else 0.5), 1))
        for part, value in trend.points
    ]
    if len(points) == 1:
        points = [(240.0, points[0][1])]
    return {
        "metric": trend.metric,
        "object": trend.object,
        "line": "M" + "L".join(f"{x:g} {y:g}" for x, y in points) if len(points) > 1 else "",
        "dot": f"M{points[-1][0]:g} {points[-1][1]:g}h0",
        "last": wording.fact(trend.metric, trend.last),
        "least": wording.fact(trend.metric, trend.least),
        "most": wording.fact(trend.metric, trend.most),
        "samples": trend.samples,
        "over": wording.span((trend.last_at - trend.first_at).total_seconds()),
    }


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return str(value)
