"""How a look opens, changes and resolves findings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from upkeep.findings import Finding, Outcome, Severity, alert_key
from upkeep.ledger.jsonb import jsonb, text
from upkeep.ledger.run import Connection, Run

Event = Literal["opened", "reopened", "worse", "better", "resolved"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One finding that is not what it was at the last look."""

    event: Event
    key: str
    run: Run
    finding: Finding
    """As it is now; for ``resolved``, as it was last."""

    kind: Literal["finding", "unknown"]
    before: Severity | None
    """The severity it had; None when just opened."""

    peak: Severity
    """The worst it was since it opened."""


def apply(connection: Connection, run: Run, outcome: Outcome) -> list[Change]:
    """Bring the findings of one outcome's scope up to date, inside the caller's transaction."""
    if outcome.state == "unknown":
        return [] if outcome.explained_by else _could_not_look(connection, run, outcome)
    changes = []
    seen = set()
    for finding in sorted(outcome.findings, key=lambda f: f.object):
        key = text(alert_key(run.platform, finding.check, finding.object))
        if key not in seen:
            changes += _see(connection, run, key, finding, "finding")
        seen.add(key)
    repaired = connection.execute(
        "select * from findings where platform = %(platform)s and check_name = %(check)s and state = 'open'"
        # Whoever could look at any part of a check also ends "could not look" of the whole.
        " and (%(scope)s = '' or object = %(scope)s or (object = '' and kind = 'unknown'))"
        " and not key = any(%(seen)s) order by key for update",
        {"platform": run.platform, "check": outcome.check, "scope": text(outcome.object), "seen": list(seen)},
    ).fetchall()
    for row in repaired:
        connection.execute(
            "update findings set state = 'resolved', resolved_at = clock_timestamp() where key = %s", [row["key"]]
        )
        changes.append(_change(connection, run, "resolved", row, _finding(row)))
    return changes


def _could_not_look(connection: Connection, run: Run, outcome: Outcome) -> list[Change]:
    finding = Finding(
        check=outcome.check,
        object=outcome.object,
        severity=outcome.severity,
        summary=f"could not look: {outcome.reason}",
        hint="make it reachable for Upkeep; until then nobody knows how it is.",
        facts=outcome.facts,
    )
    key = text(alert_key(run.platform, outcome.check, outcome.object))
    row = connection.execute("select * from findings where key = %s for update", [key]).fetchone()
    if row and row["state"] == "open" and row["kind"] == "finding":
        # What was wrong is still wrong as far as anybody knows.
        return []
    return _see(connection, run, key, finding, "unknown")


def _see(
    connection: Connection, run: Run, key: str, finding: Finding, kind: Literal["finding", "unknown"]
) -> list[Change]:
    values: dict[str, Any] = {
        "key": key,
        "platform": run.platform,
        "check": finding.check,
        "object": text(finding.object),
        "kind": kind,
        "severity": finding.severity.value,
        "summary": text(finding.summary[:2000]),
        "hint": text(finding.hint[:2000]),
        "facts": jsonb(dict(finding.facts)),
    }
    opened = connection.execute(
        "insert into findings (key, platform, check_name, object, kind, state, severity, peak, summary, hint, facts,"
        " opened_at, last_seen_at)"
        " values (%(key)s, %(platform)s, %(check)s, %(object)s, %(kind)s, 'open', %(severity)s, %(severity)s,"
        " %(summary)s, %(hint)s, %(facts)s, clock_timestamp(), clock_timestamp())"
        " on conflict (key) do nothing returning *",
        values,
    ).fetchone()
    if opened:
        return [_change(connection, run, "opened", opened, finding)]
    row = connection.execute("select * from findings where key = %s for update", [key]).fetchone()
    assert row is not None
    was_open = row["state"] == "open"
    before = Severity(row["severity"])
    # "P0" < "P1" as text: least() is the worse of the two.
    now = connection.execute(
        "update findings set kind = %(kind)s, state = 'open', severity = %(severity)s, summary = %(summary)s,"
        " hint = %(hint)s, facts = %(facts)s, last_seen_at = clock_timestamp(), resolved_at = null,"
        " peak = case when state = 'open' then least(peak, %(severity)s) else %(severity)s end,"
        " looks = case when state = 'open' then looks + 1 else 1 end,"
        " opened_at = case when state = 'open' then opened_at else clock_timestamp() end"
        " where key = %(key)s returning *",
        values,
    ).fetchone()
    assert now is not None
    if not was_open:
        return [_change(connection, run, "reopened", now, finding)]
    if finding.severity.rank < before.rank:
        return [_change(connection, run, "worse", now, finding, before)]
    if finding.severity.rank > before.rank:
        return [_change(connection, run, "better", now, finding, before)]
    return []


def _change(
    connection: Connection,
    run: Run,
    event: Event,
    row: dict[str, Any],
    finding: Finding,
    before: Severity | None = None,
) -> Change:
    connection.execute(
        "insert into finding_events (key, event, severity, summary, dag_id, run_id, task_id)"
        " values (%s, %s, %s, %s, %s, %s, %s)",
        [row["key"], event, finding.severity.value, text(finding.summary[:2000]), run.dag_id, run.run_id, run.task_id],
    )
    return Change(
        event=event,
        key=row["key"],
        run=run,
        finding=finding,
        kind=row["kind"],
        before=before if event != "resolved" else Severity(row["severity"]),
        peak=Severity(row["peak"]),
    )


def _finding(row: dict[str, Any]) -> Finding:
    return Finding(
        check=row["check_name"],
        object=row["object"],
        severity=Severity(row["severity"]),
        summary=row["summary"],
        hint=row["hint"],
        facts=row["facts"],
    )
