"""How a look opens, changes and resolves findings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from upkeep.findings import Finding, Outcome, Severity, alert_key
from upkeep.ledger.jsonb import jsonb, text
from upkeep.ledger.run import Connection, Run

Event = Literal["opened", "reopened", "worse", "better", "resolved"]
Kind = Literal["finding", "unknown"]

MOST_GOOD_LOOKS = 12
"""However often it flaps, so many good looks in a row end it: an hour of them at one every five minutes."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often looks must agree before they are believed. A daily look is believed at once."""

    bad_looks: int = 1
    """So many bad looks in a row open a finding, or make it worse."""

    good_looks: int = 1
    """So many good looks in a row resolve it; twice as many each time it came back within ``reopen_s``."""

    reopen_s: float = 1800.0


AT_ONCE = Patience()


@dataclass(frozen=True, kw_only=True)
class Change:
    """One finding that is not what it was at the last look."""

    event: Event
    key: str
    run: Run
    finding: Finding
    """As it is now; for ``resolved``, as it was last."""

    kind: Kind
    before: Severity | None
    """The severity it had; None when just opened."""

    peak: Severity
    """The worst it was since it opened."""

    since: datetime | None = None
    """When it opened."""

    held: str = ""
    """Why nobody is told of it, nor of its end: ``because studyspot/postgres_connect``, ``silence 7``, ``storm``."""

    joins: bool = False
    """It came back soon after it was over: what is told belongs to what was told before."""

    quiet: bool = False
    """Part of a storm that Slack hears of as a whole; a page of its own is still ended."""


def apply(connection: Connection, run: Run, outcome: Outcome, patience: Patience = AT_ONCE) -> list[Change]:
    """Bring the findings of one outcome's scope up to date, inside the caller's transaction."""
    if outcome.state == "unknown":
        return [] if outcome.explained_by else _could_not_look(connection, run, outcome, patience)
    changes = []
    seen = set()
    for finding in sorted(outcome.findings, key=lambda f: f.object):
        key = text(alert_key(run.platform, finding.check, finding.object))
        if key not in seen:
            changes += see(connection, run, key, finding, "finding", patience)
        seen.add(key)
    repaired = connection.execute(
        "select *"
        " from findings where platform = %(platform)s and check_name = %(check)s and state <> 'resolved'"
        # Whoever could look at any part of a check also ends "could not look" of the whole.
        " and (%(scope)s = '' or object = %(scope)s or (object = '' and kind = 'unknown'))"
        " and not key = any(%(seen)s) order by key for update",
        {"platform": run.platform, "check": outcome.check, "scope": text(outcome.object), "seen": list(seen)},
    ).fetchall()
    return changes + [change for row in repaired for change in _good(connection, run, row, patience)]


def _good(connection: Connection, run: Run, row: dict[str, Any], patience: Patience) -> list[Change]:
    """A good look at what was bad: one more on the way to its end, or its end."""
    if row["state"] == "suspected":
        # A blip. The outcomes keep it; the finding is what it was before.
        if row["resolved_at"] is None:
            connection.execute("delete from findings where key = %s", [row["key"]])
        else:
            connection.execute("update findings set state = 'resolved', streak = 0 where key = %s", [row["key"]])
        return []
    needed = patience.good_looks
    if needed > 1:
        needed = min(needed * 2 ** min(row["flaps"], 8), max(needed, MOST_GOOD_LOOKS))
    if row["streak"] + 1 < needed:
        connection.execute("update findings set streak = streak + 1, worse_looks = 0 where key = %s", [row["key"]])
        return []
    return [resolve(connection, run, row)]


def resolve(connection: Connection, run: Run, row: dict[str, Any]) -> Change:
    """It is over."""
    connection.execute(
        "update findings set state = 'resolved', resolved_at = clock_timestamp(), streak = 0, worse_looks = 0"
        " where key = %s",
        [row["key"]],
    )
    return _change(connection, run, "resolved", row, of_row(row))


def _could_not_look(connection: Connection, run: Run, outcome: Outcome, patience: Patience) -> list[Change]:
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
        # What was wrong is still wrong as far as anybody knows; good looks are counted afresh.
        connection.execute("update findings set streak = 0 where key = %s", [key])
        return []
    return see(connection, run, key, finding, "unknown", patience)


def see(
    connection: Connection, run: Run, key: str, finding: Finding, kind: Kind, patience: Patience = AT_ONCE
) -> list[Change]:
    """A bad look: suspect it, open it, or bring what is open up to date."""
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
        "state": "open" if patience.bad_looks <= 1 else "suspected",
        "reopen": patience.reopen_s,
    }
    new = connection.execute(
        "insert into findings (key, platform, check_name, object, kind, state, severity, peak, summary, hint, facts,"
        " opened_at, last_seen_at, streak)"
        " values (%(key)s, %(platform)s, %(check)s, %(object)s, %(kind)s, %(state)s, %(severity)s, %(severity)s,"
        " %(summary)s, %(hint)s, %(facts)s, clock_timestamp(), clock_timestamp(), (%(state)s = 'suspected')::int)"
        " on conflict (key) do nothing returning *",
        values,
    ).fetchone()
    if new:
        return [_change(connection, run, "opened", new, finding)] if new["state"] == "open" else []
    row = connection.execute("select * from findings where key = %s for update", [key]).fetchone()
    assert row is not None
    if row["state"] != "open":
        return _suspect_or_open(connection, run, row, finding, values, patience)
    before = Severity(row["severity"])
    if finding.severity.rank < before.rank and row["worse_looks"] + 1 < patience.bad_looks:
        connection.execute(
            "update findings set worse_looks = worse_looks + 1, streak = 0, looks = looks + 1,"
            " last_seen_at = clock_timestamp() where key = %(key)s",
            values,
        )
        return []
    # "P0" < "P1" as text: least() is the worse of the two.
    now = connection.execute(
        "update findings set kind = %(kind)s, severity = %(severity)s, summary = %(summary)s, hint = %(hint)s,"
        " facts = %(facts)s, last_seen_at = clock_timestamp(), streak = 0, worse_looks = 0,"
        " peak = least(peak, %(severity)s), looks = looks + 1 where key = %(key)s returning *",
        values,
    ).fetchone()
    assert now is not None
    if finding.severity.rank < before.rank:
        return [_change(connection, run, "worse", now, finding, before)]
    if finding.severity.rank > before.rank:
        return [_change(connection, run, "better", now, finding, before)]
    return []


def _suspect_or_open(
    connection: Connection, run: Run, row: dict[str, Any], finding: Finding, values: dict[str, Any], patience: Patience
) -> list[Change]:
    streak = row["streak"] + 1 if row["state"] == "suspected" else 1
    told = (
        "update findings set kind = %(kind)s, severity = %(severity)s, summary = %(summary)s, hint = %(hint)s,"
        " facts = %(facts)s, last_seen_at = clock_timestamp(), peak = %(severity)s, worse_looks = 0,"
    )
    if streak < patience.bad_looks:
        # When it was opened and resolved stays: a good look makes it what it was.
        connection.execute(
            told + " state = 'suspected', streak = %(streak)s where key = %(key)s", {**values, "streak": streak}
        )
        return []
    opened = connection.execute(
        told + " state = 'open', streak = 0, looks = %(streak)s, opened_at = clock_timestamp(), resolved_at = null,"
        # One that had been over for long starts anew.
        " flaps = case when resolved_at > clock_timestamp() - make_interval(secs => %(reopen)s) then flaps + 1"
        " else 0 end, held = '', acknowledged_at = null, acknowledged_by = '', reminders = 0, overdue = false"
        " where key = %(key)s returning *",
        {**values, "streak": streak},
    ).fetchone()
    assert opened is not None
    return [_change(connection, run, "reopened" if row["resolved_at"] else "opened", opened, finding)]


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
        since=row["opened_at"],
        held=row["held"],
        joins=event == "reopened" and row["flaps"] > 0,
    )


def of_row(row: dict[str, Any]) -> Finding:
    """The finding that a row of the table keeps."""
    return Finding(
        check=row["check_name"],
        object=row["object"],
        severity=Severity(row["severity"]),
        summary=row["summary"],
        hint=row["hint"],
        facts=row["facts"],
    )
