"""What a swap takes away: by how much a database differs from the snapshot that would take its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import psycopg

from upkeep.backup import content
from upkeep.backup.faults import some
from upkeep.backup.manifest import Database, Table
from upkeep.errors import UpkeepError


@dataclass(frozen=True)
class Change:
    """One table that is no longer as the snapshot has it."""

    table: str
    then: int
    """Rows in the snapshot."""

    now: int


@dataclass(frozen=True)
class Loss:
    """What a database has that the snapshot has not."""

    changes: tuple[Change, ...] = ()
    tables: int = 0
    """That were compared."""

    rows: int = 0
    """In all of them, now."""

    unknown: str = ""
    """Why nobody knows."""

    @property
    def more(self) -> int:
        """Rows that are in it and not in the snapshot, at least: some may have come where others went."""
        return sum(max(0, one.now - one.then) for one in self.changes)

    @property
    def sentence(self) -> str:
        if self.unknown:
            return f"what it has beyond the backup could not be counted: {self.unknown}"
        if not self.changes:
            return f"all {self.tables} tables are as the backup has them: nothing is lost"
        grown = sorted(self.changes, key=lambda one: one.then - one.now)
        names = some([f"{one.table} {one.now - one.then:+,}" for one in grown], 5)
        return (
            f"{self.more:,} rows newer than the backup, and every change since, in {len(self.changes)} of"
            f" {self.tables} tables ({names})"
        )

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "more": self.more}


def weigh(conninfo: str, snapshot: Database) -> Loss:
    """
    Compare a database with a snapshot: each table is counted and digested, in one state of it.

    :param conninfo: as the maintenance role.
    """
    then = {(one.schema_name, one.name): one for one in snapshot.tables}
    try:
        with content.session(conninfo) as connection:
            found = [
                content.Found(one.schema_name, one.name, _method(one, then))
                for one in content.tables(connection)
                if one.schema_name != _UPKEEP
            ]
        counted = content.everything(conninfo, found)
    except (psycopg.Error, UpkeepError) as trouble:
        return Loss(unknown=" ".join(str(trouble).split())[:300])
    changes = []
    for one in counted:
        before = then.get((one.schema_name, one.name))
        if before is None or (before.rows, before.digest) != (one.rows, one.digest):
            changes.append(Change(one.full_name, before.rows if before else 0, one.rows))
    there = {(one.schema_name, one.name) for one in counted}
    changes += [
        Change(one.full_name, one.rows, 0)
        for key, one in then.items()
        if key not in there and one.schema_name != _UPKEEP
    ]
    return Loss(tuple(changes), len(counted), sum(one.rows for one in counted))


_UPKEEP = "upkeep"
"""Upkeep's own bookkeeping: nobody would miss it."""


def _method(table: content.Found, then: Mapping[tuple[str, str], Table]) -> content.Method:
    """As the snapshot was digested, so that the two can be compared."""
    known = then.get((table.schema_name, table.name))
    return known.method if known else table.method
