"""How far a deletion has come: one row per table in schema ``upkeep``, written in the transaction that deletes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from upkeep.postgres.session import Connection
from upkeep.retention.items import Item


@dataclass
class Progress:
    """A row of ``upkeep.retention``."""

    relation: str
    plan: str
    cut_off: str
    turn: int = 1
    """1 is the first pass through the expired rows; later ones take what was locked or referred to."""

    after_key: str | None = None
    after_tid: str | None = None
    """The lower bound: the last row looked at. A key without a tid is looked at again."""

    again_key: str | None = None
    """The lowest key of the rows that were locked by others."""

    batches: int = 0
    segments: int = 0
    deleted: int = 0
    archive: str | None = None
    """The confirmed archive whose rows are being deleted."""

    place: int = 0
    """So many of its rows have had their turn."""

    kept: tuple[int, ...] = ()
    """Those of them that stayed."""


_READ = (
    "select relation, plan, cut_off::text, pass as turn, after_key, after_tid::text, again_key, batches, segments,"
    " deleted, archive, place, kept from upkeep.retention where relation = %(relation)s"
)


def read(connection: Connection, relation: str) -> Progress | None:
    row = connection.execute(_READ, {"relation": relation}).fetchone()
    return Progress(**{**row, "kept": tuple(row["kept"])}) if row else None


def start(connection: Connection, item: Item, plan: str) -> Progress:
    """Where this plan stands; from the beginning when it is new."""
    connection.execute(
        "insert into upkeep.retention as known (relation, plan, cut_off) values (%s, %s, %s)"
        " on conflict (relation) do update set plan = excluded.plan, cut_off = excluded.cut_off, pass = 1,"
        " after_key = null, after_tid = null, again_key = null, batches = 0, segments = 0, deleted = 0,"
        " archive = null, place = 0, kept = '{}', updated_at = clock_timestamp()"
        " where known.plan <> excluded.plan",
        [item.table, plan, item.cut_off],
    )
    progress = read(connection, item.table)
    assert progress is not None
    return progress


def write(connection: Connection, progress: Progress) -> None:
    """Inside the caller's transaction."""
    values: dict[str, Any] = {**vars(progress), "kept": list(progress.kept)}
    connection.execute(
        "update upkeep.retention set pass = %(turn)s, after_key = %(after_key)s, after_tid = %(after_tid)s::tid,"
        " again_key = %(again_key)s, batches = %(batches)s, segments = %(segments)s, deleted = %(deleted)s,"
        " archive = %(archive)s, place = %(place)s, kept = %(kept)s, updated_at = clock_timestamp()"
        " where relation = %(relation)s",
        values,
    )
