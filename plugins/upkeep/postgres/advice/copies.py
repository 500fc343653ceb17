"""Whole databases that a restore made or set aside: each costs its size until a person drops it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from upkeep.findings import Finding, Outcome, Severity, judged
from upkeep.postgres.advice.look import Look
from upkeep.report.wording import size

COPIES = "postgres_copies"


def report(look: Look) -> list[Outcome]:
    """One finding per database; in the report only, for it may well be wanted."""
    rows = look.ask("left_databases")
    return [judged(COPIES, Severity.P3, [_left(row) for row in rows], databases=len(rows))]


def _left(row: Mapping[str, Any]) -> Finding:
    name, restore = row["name"], row["restore"]
    weighs = f" ({size(row['bytes'])})" if row["bytes"] is not None else ""
    was = "was replaced by" if row["aside"] else "was made by"
    back = "; until then action `swap back` of the Dag `restore` puts it back" if row["aside"] else ""
    return Finding(
        check=COPIES,
        object=name,
        severity=Severity.P3,
        summary=f"database {name}{weighs} {was} restore {restore}, and is still there",
        hint=f'when nobody needs it any more: drop database "{name}"{back}.',
        facts={"restore": restore, "bytes": row["bytes"]},
    )
