"""How much of an index is air: three ways to tell, from the cheapest to none at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import sql

from upkeep.postgres.reindex.history import Source
from upkeep.postgres.session import Connection, query, statement_timeout

PAGES = 300
"""Sampled of each index: 10 ms whatever its size, and within 1 point of pgstatindex."""

SCAN_BYTES = 2 * 1024**3
"""Read by pgstatindex in one run, where pages may not be sampled."""


_FORBIDDEN = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.InvalidSchemaName,
)


@dataclass(frozen=True)
class Measured:
    """What was seen in an index itself."""

    bloat: float
    """Share of it that a rebuild would free, 0 to 1."""

    by: Source


class Looker:
    """Looks into B-trees in the best way that this role has on this server."""

    def __init__(self, connection: Connection, *, scan_bytes: int = SCAN_BYTES) -> None:
        self.connection = connection
        self.scan_bytes = scan_bytes
        """Still to be spent on pgstatindex."""

        self.may_sample = True
        self.why_not = ""
        """Why pages cannot be sampled here; empty when they can."""

        self.may_scan = False

    def look(self, index: Mapping[str, Any]) -> Measured | None:
        """
        How bloated it is; None when that cannot be told: no B-tree, locked, gone, or no right and no budget left.

        :param index: ``oid, method, bytes, fillfactor`` as in ``reindex/indexes.sql``.
        """
        if index["method"] != "btree":
            return None
        if self.may_sample:
            try:
                return self._sample(index)
            except _FORBIDDEN as no:
                self.may_sample, self.why_not = False, str(no.diag.message_primary)
                self.may_scan = self._find_pgstatindex()
            except psycopg.Error as no:
                _raise_when_lost(no)
                return None
        if self.may_scan and index["bytes"] <= self.scan_bytes:
            self.scan_bytes -= index["bytes"]
            try:
                return self._scan(index)
            except psycopg.Error as no:
                _raise_when_lost(no)
        return None

    def _sample(self, index: Mapping[str, Any]) -> Measured | None:
        row = self.connection.execute(query("reindex/sample"), {"index": index["oid"], "most": PAGES}).fetchone()
        if row is None or not row["leaves"]:
            return None
        sampled = min(PAGES, row["pages"])
        density = 1 - row["free_bytes"] / row["usable_bytes"]
        return Measured(bloat(density, row["empty"] / sampled, index["fillfactor"]), "sample")

    def _scan(self, index: Mapping[str, Any]) -> Measured | None:
        with statement_timeout(self.connection, timedelta(minutes=10)):
            row = self.connection.execute(query("reindex/scan"), {"index": index["oid"]}).fetchone()
        if row is None or not row["leaves"]:
            return None
        return Measured(bloat(row["density"] / 100, row["empty"] / row["pages"], index["fillfactor"]), "scan")

    def _find_pgstatindex(self) -> bool:
        row = self.connection.execute(query("reindex/pgstattuple")).fetchone()
        if row is None or not row["allowed"]:
            return False
        path = sql.SQL("set search_path = pg_catalog, {}").format(sql.Identifier(row["schema"]))
        self.connection.execute(path)
        return True


def _raise_when_lost(trouble: psycopg.Error) -> None:
    """A trouble of one index (locked, gone, rebuilt meanwhile) is not one of the whole look; a lost server is."""
    if isinstance(trouble, psycopg.OperationalError) and not trouble.sqlstate:
        raise trouble
    if trouble.sqlstate and trouble.sqlstate.startswith(("08", "57P")):
        raise trouble


def bloat(density: float, empty: float, fillfactor: int) -> float:
    """
    Share of a B-tree that a rebuild would free.

    :param density: of its leaves, 0 to 1: what is not free of what could hold entries.
    :param empty: share of its pages that hold nothing. :param fillfactor: to which a rebuild fills pages, in percent.
    """
    return max(0.0, 1 - (1 - empty) * density / (fillfactor / 100))


def page_math(method: str, pages_bytes: int, rows: float, fillfactor: int) -> int:
    """
    Bytes that might be wasted in an index of which nothing is known: never too few, often too many.

    A B-tree needs six bytes a row even when all rows are equal (they share one key); nobody knows without looking how
    many do. For other methods there is no such bound.
    """
    if rows < 0:
        return 0
    least = rows * 6 / (fillfactor / 100) if method == "btree" else 0.0
    return max(0, int(pages_bytes - least))
