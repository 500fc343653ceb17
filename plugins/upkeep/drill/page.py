"""One page per drill: what was done when, with what, how long it took against the promise, and what is to do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from upkeep.drill.judging import trend
from upkeep.drill.record import Drill
from upkeep.findings import Finding, Outcome, Severity
from upkeep.platforms import Platform
from upkeep.report.render import environment
from upkeep.report.wording import counted, span

TITLES = {
    ("restoration", "newest"): "Restoration of the newest backup",
    ("restoration", "older"): "Restoration of an older backup, drawn by lot",
    ("restoration", "point_in_time"): "Recovery to a second drawn by lot",
    ("failover", "kill"): "Failover after the loss of the primary",
    ("failover", "switchover"): "Planned switchover",
    ("application", "pods"): "Recovery of the application",
}

VERDICTS = (
    ("act", "Recovered", "what was lost came back"),
    ("validation", "Right", "what came back is what it should be"),
    ("cleanup", "Cleaned up", "all is as it was before"),
)

SOLVE = {Severity.P0: 1, Severity.P1: 7, Severity.P2: 30}
"""Days until an action is due where the platform promises nothing shorter."""

WIDTH, HEIGHT = 640, 150


@dataclass(frozen=True)
class Bar:
    """A phase on the drill's time axis, in per cent of its length."""

    name: str
    at: str
    took: str
    left: float
    width: float


@dataclass(frozen=True)
class Action:
    """Something that a person has to do."""

    what: str
    why: str
    severity: str
    owner: str
    due: datetime


def render(
    drill: Drill,
    platform: Platform,
    outcomes: Sequence[Outcome],
    past: Sequence[Mapping[str, Any]],
    *,
    actor: str,
    approved_by: str = "",
    run_id: str = "",
    run_url: str = "",
    now: datetime | None = None,
) -> bytes:
    """HTML in one file that asks for nothing else."""
    now = now or datetime.now(UTC)
    recovery = platform.recovery
    assert recovery is not None
    facts = drill.facts
    page = (
        environment()
        .get_template("drill/report.html")
        .render(
            drill=drill,
            platform=platform,
            title=title_of(drill.act, drill.scenario),
            verdict=verdict(drill),
            verdicts=[(drill.verdicts[part], name, meaning) for part, name, meaning in VERDICTS],
            bars=bars(drill),
            targets=[
                _measured("Time to recover", drill.rto_s, recovery.rto),
                *([_measured("Data lost", drill.rpo_s, recovery.rpo)] if drill.act != "application" else []),
            ],
            plots=[plot for name in ("rto", "rpo") if (plot := draw(past, name))],
            forecast=_forecast(past),
            used=facts.get("used", {}),
            told=_told(drill),
            checks=[(outcome, outcome.findings) for outcome in outcomes],
            faults=facts.get("faults", []),
            deviations=facts.get("deviations", []),
            cleaned=_cleaned(drill),
            actions=actions(outcomes, platform, now),
            actor=actor,
            approved_by=approved_by,
            run_id=run_id,
            run_url=run_url,
            now=now,
            raw=json.dumps(facts, indent=1, sort_keys=True, default=str, ensure_ascii=False),
        )
    )
    return page.encode("utf-8", "replace")


def verdict(drill: Drill) -> str:
    """``ok``, ``failed`` or ``unknown``."""
    return judged_by(drill.verdicts.values())


def judged_by(verdicts: Iterable[str]) -> str:
    """What three verdicts come to."""
    said = set(verdicts)
    return "ok" if said == {"passed"} else "failed" if "failed" in said else "unknown"


def title_of(act: str, scenario: str) -> str:
    """For people: ``Failover after the loss of the primary``."""
    return TITLES.get((act, scenario), f"{act} {scenario}")


def bars(drill: Drill) -> list[Bar]:
    """Phases as they lay in time."""
    if not drill.phases:
        return []
    begin = min(one.began for one in drill.phases)
    whole = max((one.began - begin).total_seconds() + one.seconds for one in drill.phases) or 1.0
    return [
        Bar(
            name=one.name,
            at=one.began.strftime("%H:%M:%S.%f")[:-5],
            took=span(one.seconds),
            left=round(min(99.5, (one.began - begin).total_seconds() / whole * 100), 2),
            width=round(max(0.5, one.seconds / whole * 100), 2),
        )
        for one in drill.phases
    ]


def _measured(name: str, value: float | None, target: timedelta) -> dict[str, Any]:
    most = target.total_seconds()
    return {
        "name": name,
        "value": "not measured" if value is None else span(value) if value else "none",
        "target": span(most),
        "state": "unknown" if value is None else "finding" if value > most else "ok",
        "share": min(100.0, round(value / most * 100, 2)) if value is not None else 0.0,
    }


def draw(past: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any] | None:
    """The last drills as a line, with the promise where it is near enough to be seen."""
    rows = [row for row in past if row[f"{name}_s"] is not None]
    if not rows:
        return None
    values = [float(row[f"{name}_s"]) for row in rows]
    target = float(rows[-1][f"{name}_target_s"])
    top = max(values) * 1.15 or 1.0
    shown = target <= max(values) * 4
    if shown:
        top = max(top, target * 1.1)
    step = WIDTH / max(1, len(rows) - 1)
    points = [
        {
            "x": round(index * step if len(rows) > 1 else WIDTH / 2, 1),
            "y": round(HEIGHT - value / top * HEIGHT, 1),
            "said": f"{row['started_at']:%d %b %Y}: {span(value)}",
            "missed": value > target,
        }
        for index, (row, value) in enumerate(zip(rows, values, strict=True))
    ]
    return {
        "name": {"rto": "Time to recover", "rpo": "Data lost"}[name],
        "points": points,
        "line": "M" + "L".join(f"{one['x']:g} {one['y']:g}" for one in points),
        "target_y": round(HEIGHT - target / top * HEIGHT, 1) if shown else None,
        "target": span(target),
        "least": span(min(values)),
        "most": span(max(values)),
        "last": span(values[-1]),
        "first": f"{rows[0]['started_at']:%d %b %Y}",
        "until": f"{rows[-1]['started_at']:%d %b %Y}",
        "count": len(rows),
    }


def _forecast(past: Sequence[Mapping[str, Any]]) -> str:
    line = trend(past)
    if line is None:
        return "Three drills on different days are needed before anything can be said about a trend."
    target = float(past[-1]["rto_target_s"])
    if when := line.crosses(target):
        return (
            f"At this pace ({span(line.per_day * 90)} more each quarter) the promise is missed about {when:%d %b %Y}."
        )
    return "At this pace the promise holds." if line.last < target else "The promise is missed already."


def _told(drill: Drill) -> list[tuple[str, str]]:
    """What the act saw, in words."""
    facts, said = drill.facts, []
    if canary := facts.get("canary"):
        said += [
            ("Rows written meanwhile", f"{canary['written']:,}, one every {span(canary['every_s'])}"),
            ("Acknowledged", f"{canary['acknowledged']:,}"),
            ("Of these lost", f"{canary['lost']:,}"),
            ("There though nobody was told", f"{canary['unsure']:,}"),
        ]
        if canary["lost"]:
            said.append(("Data-loss window", f"{canary['first_lost']} to {canary['last_lost']}"))
        else:
            said.append(("Data-loss window", "none: every acknowledged row is there"))
    if "promoted" in facts:
        old, new = facts["timelines"]
        said += [
            ("Primary before", facts["primary"]),
            ("Promoted", f"{facts['promoted']}, timeline {old} → {new}"),
            ("Old primary", f"a standby again by {facts['rejoined_by']}" if "rejoined_by" in facts else "lost"),
        ]
    if until := facts.get("data_until"):
        said.append(("Data-loss window", f"{_clock(until)} to {_clock(facts['decided'])}"))
    if "times" in facts:
        lost = facts.get("lost", {})
        said += [
            (name, f"{lost.get(name, 0)} Pods lost, all available again after {span(seconds)}")
            for name, seconds in facts["times"].items()
        ]
    if probes := facts.get("probes"):
        said.append(
            ("Probes", f"{probes['looks']:,}; {probes['failed']:,} failed, {probes['failed_outside']:,} of them outside"
             " the expected gap")
        )  # fmt: skip
    restored = facts.get("restored", {})
    for name, label in (("rows", "Rows"), ("tables", "Tables"), ("indexes", "B-trees checked"), ("amcheck", "amcheck")):
        if name in restored:
            said.append((label, f"{restored[name]:,}" if isinstance(restored[name], int) else str(restored[name])))
    if target := facts.get("used", {}).get("target"):
        said.append(("Recovered to", str(target)))
    return said


def _clock(iso: str) -> str:
    return datetime.fromisoformat(iso).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _cleaned(drill: Drill) -> list[str]:
    """The proof that nothing is left."""
    if drill.verdicts["cleanup"] != "passed":
        return []
    facts, proof = drill.facts, []
    if place := facts.get("place"):
        proof.append(f"{place} and the server in it are gone")
    if cleaned := facts.get("cleaned"):
        proof += [f"{cleaned['rows']} rows of the canary removed", f"the pair: {cleaned['pair']}, streaming"]
    for name, after in facts.get("after", {}).items() if drill.act == "application" else ():
        same = after == facts.get("before", {}).get(name)
        proof.append(f"{name}: {_spec(after)}{', as before' if same else ''}")
    return proof or ["nothing was made"]


def _spec(standing: Mapping[str, Any]) -> str:
    if scaler := standing.get("autoscaler"):
        return f"autoscaler {scaler[0]} from {scaler[1]} to {scaler[2]}"
    return counted(standing["replicas"], "replica")


def actions(outcomes: Sequence[Outcome], platform: Platform, now: datetime) -> list[Action]:
    """One per finding, with the platform's owner and the time its severity gives."""
    made = []
    for outcome in outcomes:
        for finding in outcome.findings:
            made.append(
                Action(
                    finding.hint, finding.summary, finding.severity.value, platform.owner, _due(finding, platform, now)
                )
            )
        if outcome.state == "unknown":
            made.append(
                Action("find out why, and rehearse again.", outcome.reason, outcome.severity.value, platform.owner,
                       now + timedelta(days=SOLVE.get(outcome.severity, 90)))
            )  # fmt: skip
    return made


def _due(finding: Finding, platform: Platform, now: datetime) -> datetime:
    level = platform.severity.levels.get(finding.severity)
    if level is not None and level.resolve is not None:
        return now + level.resolve
    return now + timedelta(days=SOLVE.get(finding.severity, 90))
