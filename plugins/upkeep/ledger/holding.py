"""Whom not to call: what a known cause explains, what somebody silenced, and what drowns in a storm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from upkeep.findings import Finding, Severity, alert_key
from upkeep.ledger.findings import Change, of_row, resolve, see
from upkeep.ledger.run import Connection, Run
from upkeep.ledger.waivers import waiver

STORM = "storm"
"""Check under which a storm's umbrella is told."""

NAMED = 40
"""So many members an umbrella names; the ledger has all."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What one platform wants held back."""

    reaches: Callable[[Change], bool]
    """Whether anybody would be told of it at once."""

    notify: Severity = Severity.P2
    """A finding this bad or worse counts towards a storm."""

    storm: int = 10
    storm_within_s: float = 300.0
    because: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """``{"postgres_connect": ["http*"]}``: checks that keep quiet while another has a finding."""


def hold(connection: Connection, run: Run, changes: Sequence[Change], rules: Rules) -> list[Change]:
    """
    The same changes, each with the reason why it is held back, and a storm's umbrella where one begins or ends.

    To be called last in a transaction: from here on those of one platform go one after the other.
    """
    if not changes:
        return []
    connection.execute("select pg_advisory_xact_lock(hashtextextended('upkeep.hold.' || %s, 0))", [run.platform])
    held = [_hold(connection, run, change, rules) for change in changes]
    calling = [n for n, change in enumerate(held) if not change.held and _begins(change) and rules.reaches(change)]
    umbrella: list[Change] = []
    if any(change.held == STORM and change.event == "worse" for change in held):
        umbrella = _umbrella(connection, run, _recent(connection, run.platform, rules), rules)
    if calling and (count := _recent(connection, run.platform, rules)) > rules.storm:
        for n in calling:
            held[n] = _mark(connection, held[n], STORM, rules)
        umbrella = _umbrella(connection, run, count, rules)
    ended = _end_of_storm(connection, run, rules) if any(change.event == "resolved" for change in held) else []
    return [*(_quiet(connection, change, rules) for change in held), *umbrella, *ended]


def _begins(change: Change) -> bool:
    return change.event in ("opened", "reopened", "worse")


def _hold(connection: Connection, run: Run, change: Change, rules: Rules) -> Change:
    """What nobody was told of stays so, until it is let go; what begins is held when there is a reason."""
    if change.held or not _begins(change) or not rules.reaches(change):
        return change
    if why := _reason(connection, run.platform, change, rules):
        return _mark(connection, change, why, rules)
    return change


def _reason(connection: Connection, platform: str, change: Change, rules: Rules) -> str:
    return (
        silence(connection, platform, change.key)
        or waiver(connection, change.key, change.finding.severity.value)
        or cause(connection, platform, change, rules.because)
    )


def _mark(connection: Connection, change: Change, why: str, rules: Rules) -> Change:
    # One that was told already and got worse keeps its own end.
    if change.before is None or not change.before.at_least(rules.notify):
        connection.execute("update findings set held = %s where key = %s", [why, change.key])
    return replace(change, held=why)


def silence(connection: Connection, platform: str, key: str) -> str:
    """``silence 7`` when somebody asked for quiet about this key now, else nothing."""
    rows = connection.execute(
        "select id, pattern from silences where platform = %s and starts_at <= clock_timestamp()"
        " and until > clock_timestamp() order by id",
        [platform],
    ).fetchall()
    name = key.removeprefix(f"{platform}/")
    return next((f"silence {row['id']}" for row in rows if fnmatchcase(name, row["pattern"])), "")


def cause(connection: Connection, platform: str, change: Change, because: Mapping[str, Sequence[str]]) -> str:
    """``because studyspot/postgres_connect`` when that is broken and explains this, else nothing."""
    check = change.finding.check
    causes = [one for one, explained in because.items() if any(fnmatchcase(check, pattern) for pattern in explained)]
    row = connection.execute(
        # Suspected is enough: both were seen by the same looks, and the cause is told in a moment.
        "select key from findings where platform = %s and check_name = any(%s) and check_name <> %s"
        " and state <> 'resolved' and held = '' order by key limit 1",
        [platform, causes, check],
    ).fetchone()
    return f"because {row['key']}" if row else ""


def _recent(connection: Connection, platform: str, rules: Rules) -> int:
    """Different alerts that began lately, whoever was told."""
    row = connection.execute(
        "select count(*) as number from findings where platform = %s and check_name <> %s and state <> 'suspected'"
        " and peak <= %s and opened_at > clock_timestamp() - make_interval(secs => %s)"
        " and held !~ '^(because|silence|waiver) '",
        [platform, STORM, rules.notify.value, rules.storm_within_s],
    ).fetchone()
    return int(row["number"]) if row else 0


def _umbrella(connection: Connection, run: Run, count: int, rules: Rules) -> list[Change]:
    rows = connection.execute(
        "select key, check_name, severity, summary, count(*) over (partition by check_name) as alike from findings"
        " where platform = %s and state = 'open' and check_name <> %s and peak <= %s"
        " and (held = 'storm' or opened_at > clock_timestamp() - make_interval(secs => %s))"
        " order by severity, opened_at, key",
        [run.platform, STORM, rules.notify.value, rules.storm_within_s],
    ).fetchall()
    worst = rows[0]
    checks = sorted({(row["check_name"], row["alike"]) for row in rows}, key=lambda c: (-c[1], c[0]))
    shown = ", ".join(f"{name} ({alike})" for name, alike in checks[:8]) + (" …" if len(checks) > 8 else "")
    minutes = f"{rules.storm_within_s / 60:g} min" if rules.storm_within_s >= 60 else f"{rules.storm_within_s:g} s"
    first = worst["key"].removeprefix(f"{run.platform}/")
    finding = Finding(
        check=STORM,
        severity=Severity(worst["severity"]),
        summary=f"{count} alerts within {minutes}, told as one: {shown}; the worst: {first}: {worst['summary'][:300]}",
        hint="look for what they share (network, database, node, deployment) before the single ones;"
        " the report and the ledger's table `findings` have them all.",
        facts={
            "alerts": len(rows),
            "members": [
                f"{row['severity']} {row['key'].removeprefix(run.platform + '/')}: {row['summary'][:80]}"
                for row in rows[:NAMED]
            ],
        },
    )
    return see(connection, run, alert_key(run.platform, STORM), finding, "finding")


def _end_of_storm(connection: Connection, run: Run, rules: Rules) -> list[Change]:
    """The umbrella's end, once the last of its members is over."""
    key = alert_key(run.platform, STORM)
    row = connection.execute(
        "select * from findings as storm where key = %s and state = 'open' and not exists ("
        " select from findings as f where f.platform = storm.platform and f.key <> storm.key and f.state = 'open'"
        " and f.peak <= %s and (f.held = 'storm'"
        " or f.opened_at between storm.opened_at - make_interval(secs => %s) and storm.opened_at)) for update",
        [key, rules.notify.value, rules.storm_within_s],
    ).fetchone()
    return [resolve(connection, run, row)] if row else []


def _quiet(connection: Connection, change: Change, rules: Rules) -> Change:
    """What was told by itself just before the storm ends in Slack with the storm."""
    if change.event != "resolved" or change.held:
        return change
    row = connection.execute(
        "select 1 from findings as f, findings as storm where f.key = %s and storm.key = %s"
        " and f.opened_at between storm.opened_at - make_interval(secs => %s) and storm.opened_at"
        " and coalesce(storm.resolved_at, 'infinity') >= f.opened_at"
        " and coalesce(storm.resolved_at, 'infinity') >= f.resolved_at",
        [change.key, alert_key(change.run.platform, STORM), rules.storm_within_s],
    ).fetchone()
    return replace(change, quiet=True) if row else change


def let_go(connection: Connection, run: Run, platform: str, rules: Rules) -> list[Change]:
    """
    What was held back and no longer has a reason to be, as if it had just begun.

    A storm's members are never let go: the umbrella stays until the last of them is over, and names them.
    """
    rows = connection.execute(
        "select * from findings where platform = %s and state = 'open' and held ~ '^(because|silence|waiver) '"
        " order by key for update skip locked",
        [platform],
    ).fetchall()
    freed = []
    for row in rows:
        change = as_change(row, run)
        if _reason(connection, platform, change, rules):
            continue
        connection.execute("update findings set held = '' where key = %s", [row["key"]])
        freed.append(replace(change, held=""))
    return [*freed, *_end_of_storm(connection, run, rules)]


def as_change(row: Mapping[str, Any], run: Run) -> Change:
    """An open finding as if it had just begun."""
    return Change(
        event="opened",
        key=row["key"],
        run=run,
        finding=of_row(dict(row)),
        kind=row["kind"],
        before=None,
        peak=Severity(row["peak"]),
        since=row["opened_at"],
        held=row["held"],
    )
