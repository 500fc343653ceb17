"""Indexes that might be missing: big tables that are read whole, again and again, for a few of their rows."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from upkeep.findings import Finding, Outcome, Severity, judged
from upkeep.postgres.advice import statements
from upkeep.postgres.advice.look import Look, iso
from upkeep.postgres.advice.reads import Read
from upkeep.postgres.advice.text import without_literals
from upkeep.report.wording import counted, number, size

MISSING = "postgres_missing_indexes"
UNINDEXED = "postgres_unindexed_keys"

LEAST_ROWS = 10_000
"""A smaller table is read whole as fast as through an index (PgHero's number)."""

LEAST_PAGES = 100
"""… as is one of few pages, however many rows are in them."""

INDEX_USE = 0.95
"""Of all scans; a table that is mostly read through its indexes is left alone (PgHero's number)."""

SELECTIVE = 0.05
"""Share of the rows up to which an index beats reading the whole table; beyond it PostgreSQL would not use it."""

MOST = 50
"""Findings, the largest tables first."""

WHOLE = 0.5
"""Share of the rows that a scan reads on average; less is a scan that a LIMIT ended."""


@dataclass(frozen=True)
class Condition:
    """A statement that picks few rows by a column that no index begins with."""

    column: str
    share: float
    """Of the table's rows that one value selects."""

    queryid: str
    text: str
    calls: float


def judge(look: Look, reads: Sequence[Read], page: int) -> Outcome:
    """
    What the tables' owner may want an index for. Advice only: nothing is ever created.

    :param reads: how each table was read since the last look. :param page: bytes of a page of this server.
    """
    tables = [read for read in reads if _read_whole(read, page, look.settings.advice.least_calls)]
    reason, _ = statements.why_not(look) if tables else ("", "")
    columns: dict[int, dict[str, float]] = defaultdict(dict)
    for row in look.ask("table_columns", oids=[read.oid for read in tables]):
        if row["share"] is not None:
            columns[row["oid"]][row["column"]] = row["share"]
    findings, rows = [], []
    for read in tables:
        told = {} if reason else _conditions(look, read, columns[read.oid])
        best = sorted(told.values(), key=lambda each: -each.calls)
        rows.append(_row(read, best))
        # A report that wants every row is no reason for an index; only where nobody can see the statements is the
        # scan itself the hint.
        if best or reason:
            findings.append(_finding(read, best, reason))
    facts: dict[str, Any] = {"tables": len(reads), "read_whole": len(tables), "scanned_whole": rows[:30]}
    return judged(MISSING, Severity.P3, findings[:MOST], **facts)


def unindexed_keys(look: Look, page: int) -> Outcome:
    """Foreign keys that make every delete of a referenced row read the whole referencing table."""
    rows = look.ask("unindexed_keys", least_rows=LEAST_ROWS, least_bytes=LEAST_PAGES * page)
    return judged(UNINDEXED, Severity.P3, [_unindexed(row) for row in rows[:MOST]], keys=len(rows))


def _unindexed(row: Mapping[str, Any]) -> Finding:
    table, columns = f"{row['schema']}.{row['table_name']}", ", ".join(row["columns"])
    return Finding(
        check=UNINDEXED,
        object=f"{table} {row['name']}",
        severity=Severity.P4,
        summary=f"{counted(int(row['deletes']), 'row')} of {row['referenced']} deleted, and each read all of {table}"
        f" ({number(row['rows'])} rows, {size(row['bytes'])}) to see who refers to it",
        hint=f"an index on {table} ({columns}) lets it look there; on a table in use: create index concurrently.",
        facts={"rows": int(row["rows"]), "bytes": row["bytes"], "deletes": int(row["deletes"]), "columns": columns},
    )


def _read_whole(read: Read, page: int, least_calls: int) -> bool:
    if read.rows < LEAST_ROWS or read.bytes < LEAST_PAGES * page or read.seq_scans < least_calls:
        return False
    scans = read.seq_scans + read.index_scans
    return read.index_scans / scans < INDEX_USE and read.seq_rows / read.seq_scans >= WHOLE * read.rows


def _conditions(look: Look, read: Read, columns: Mapping[str, float]) -> dict[str, Condition]:
    """By column: the most called statement that picks few rows by it."""
    found: dict[str, Condition] = {}
    for row in look.ask("statements_about", name=re.escape(read.spoken)):
        text = row["text"]
        for column, share in columns.items():
            known = found.get(column)
            if share <= SELECTIVE and _compares(text, column) and (known is None or known.calls < row["calls"]):
                found[column] = Condition(column, share, row["queryid"], without_literals(text, 200), row["calls"])
    return found


def _compares(text: str, column: str) -> bool:
    """
    Whether a normalised statement looks for one value (or a list) of a column: ``user_id = $1``, ``"Id" in ($1 …``.

    By its text alone: nothing of it is planned or run here, because planning calls the application's functions
    with this role's rights.
    """
    name = re.escape(column)
    quoted = f'(?:"{name}"|(?<![\\w."$]){name}|(?<=\\.){name})'
    _, _, after = re.sub(r"\s+", " ", text).lower().partition(" where ")
    return re.search(rf"(?i){quoted}(?:::\w+)? ?(?:= ?(?:any ?\()?|in ?\() ?(?:\(\s*)?(?:\$\d|')", after) is not None


def _row(read: Read, best: Sequence[Condition]) -> dict[str, Any]:
    return {
        "table": read.table,
        "rows": int(read.rows),
        "bytes": read.bytes,
        "seq_scans": int(read.seq_scans),
        "rows_read": int(read.seq_rows),
        "index_use_share": round(read.index_scans / (read.seq_scans + read.index_scans), 4),
        "wants": ", ".join(each.column for each in best),
    }


def _finding(read: Read, best: Sequence[Condition], reason: str) -> Finding:
    said = f"{number(read.seq_scans)} scans of the whole table ({number(read.rows)} rows, {size(read.bytes)})"
    if best:
        first = best[0]
        summary = f"{said} {statements.since(read.since)}; {number(first.calls)} calls so far look for one"
        summary += f" {first.column}, which selects {number(max(1, round(first.share * read.rows)))} rows: {first.text}"
        hint = (
            f"if its plan shows the scan, an index on {read.table} ({first.column}) would narrow it; try it on a copy."
        )
    else:
        summary = f"{said} {statements.since(read.since)}; which statements do it is not known: {reason}"
        hint = "find them (pg_stat_statements, or auto_explain); those that pick few rows want an index."
    return Finding(
        check=MISSING,
        object=read.table,
        severity=Severity.P4,
        summary=summary,
        hint=hint,
        facts=_row(read, best)
        | {
            "since": iso(read.since),
            "columns": [{"column": each.column, "share": each.share, "statement": each.text} for each in best],
        },
    )
