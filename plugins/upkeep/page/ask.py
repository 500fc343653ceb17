"""The page's questions to the ledger: one file of SQL each, read once."""

from __future__ import annotations

from functools import cache
from typing import Any

from upkeep.ledger import Ledger
from upkeep.settings import ROOT

SQL = ROOT / "include" / "sql" / "page"


def ask(ledger: Ledger, question: str, **asked: Any) -> list[dict[str, Any]]:
    """The rows of ``include/sql/page/<question>.sql``. :raises LedgerError: the ledger cannot be used."""
    return ledger.rows(_text(question), asked)


def by_platform(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The same rows, in their order, for each platform."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["platform"], []).append(row)
    return found


@cache
def _text(question: str) -> str:
    return (SQL / f"{question}.sql").read_text()
