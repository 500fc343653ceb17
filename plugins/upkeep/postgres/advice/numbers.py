"""Numbers that run out: sequences (and the integer columns they fill), and transaction ids."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from upkeep.findings import Finding, Outcome, Severity, judged, unknown
from upkeep.postgres.advice.look import Look, iso
from upkeep.postgres.advice.memory import per_day
from upkeep.report.wording import number

SEQUENCES = "postgres_sequences"
HEADROOM = "postgres_id_headroom"

SEQUENCES_KIND = "sequences"
IDS_KIND = "ids"

LAST_WARNING = 0.95
"""Share of a sequence that is P1 (check_postgres: 95 %)."""

SOON, NEAR = timedelta(days=30), timedelta(days=7)
"""What ends within is P2, and P1."""

SHOWN = 20


def report(look: Look) -> list[Outcome]:
    """Sequences near their end, and how long the transaction ids will last."""
    return [_sequences(look), _headroom(look)]


def _sequences(look: Look) -> Outcome:
    rows = look.ask("sequences")
    hidden = [f"{row['schema']}.{row['name']}" for row in rows if not row["may_read"]]
    if rows and len(hidden) == len(rows):
        return unknown(
            SEQUENCES,
            Severity.P2,
            f"this role may read none of {len(rows)} sequences; grant pg_read_all_data (from 14 on), or select on them",
        )
    before = look.earlier.get(SEQUENCES_KIND)
    last: Mapping[str, Any] = before.content if before else {}
    at = before.at if before else None
    look.counted[SEQUENCES_KIND] = {str(row["oid"]): int(row["last"]) for row in rows if row["last"] is not None}
    findings, shown = [], []
    for row in rows:
        if row["used"] is None:
            continue
        grew = abs(int(row["last"]) - last[str(row["oid"])]) if str(row["oid"]) in last else None
        rate = per_day(grew, at, look.now) if grew is not None else None
        left = int(abs(row["limit_value"] - row["last"]))
        days = round(left / rate, 1) if rate else None
        facts = {
            "sequence": f"{row['schema']}.{row['name']}",
            "column": row["column"],
            "type": row["type"],
            "last": int(row["last"]),
            "limit": int(row["limit_value"]),
            "used_share": round(row["used"], 6),
            "days_left": days,
        }
        shown.append(facts)
        if severity := _severity(look, row["used"], days):
            findings.append(_ending(row, facts, severity, days))
    return judged(SEQUENCES, Severity.P2, findings, sequences=len(rows), hidden=len(hidden), fullest=shown[:SHOWN])


def _severity(look: Look, used: float, days: float | None) -> Severity | None:
    if used >= LAST_WARNING or (days is not None and days < NEAR.days):
        return Severity.P1
    return Severity.P2 if used >= look.settings.advice.sequence or (days is not None and days < SOON.days) else None


def _ending(row: Mapping[str, Any], facts: Mapping[str, Any], severity: Severity, days: float | None) -> Finding:
    fills = f", which fills {row['column']} ({row['type']})" if row["column"] else ""
    when = f"; at the present pace it ends in {number(days)} days" if days is not None else ""
    narrow = row["type"] in ("integer", "smallint")
    return Finding(
        check=SEQUENCES,
        object=str(facts["sequence"]),
        severity=severity,
        summary=f"{row['used']:.1%} used ({number(facts['last'])} of {number(facts['limit'])}){fills}{when}",
        hint="every insert fails at its end. Move the column and what refers to it to bigint: a new column filled in"
        " batches, then swapped; `alter … type bigint` rewrites the table under a lock."
        if narrow
        else "every nextval() fails at its end: raise it (alter sequence … maxvalue).",
        facts=facts,
    )


def _headroom(look: Look) -> Outcome:
    ids = look.ask_one("ids")
    before = look.earlier.get(IDS_KIND)
    look.counted[IDS_KIND] = {"transactions": ids["transactions"]}
    spent = ids["transactions"] - before.content["transactions"] if before else None
    # Fewer than before: the connection leads to another cluster now.
    rate = per_day(spent, before.at, look.now) if before and spent is not None and spent >= 0 else None
    left = ids["limit_age"] - ids["database_age"]
    days = round(left / rate, 1) if rate else None
    facts = {
        "ids_left": int(left),
        "used_share": round(ids["database_age"] / ids["limit_age"], 6),
        "since": iso(before.at) if before else None,
        "ids_per_day": round(rate) if rate is not None else None,
        "days_left": days,
        "oldest_tables": ids["oldest"],
    }
    findings = []
    # Below that age autovacuum has not begun to freeze, and when it does the pace of today no longer matters.
    if days is not None and days < SOON.days and ids["database_age"] > ids["freeze_max_age"]:
        findings.append(
            Finding(
                check=HEADROOM,
                severity=Severity.P1 if days < NEAR.days else Severity.P2,
                summary=f"{number(left)} transaction ids are left for {number(days)} days at {number(rate or 0)} a day",
                hint="freeze the oldest tables (daily maintenance does it first of all), find what holds the oldest"
                " snapshot, and ask why there are so many transactions: one per row, subtransactions, a retry loop?",
                facts=facts,
            )
        )
    return judged(HEADROOM, Severity.P2, findings, **facts)
