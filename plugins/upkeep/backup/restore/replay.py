"""
What was deleted for good since a backup was made is deleted again: erased people stay erased.

By the deletion ledger, which holds no content: per transaction of retention the rule, the span of keys, and a sum over
the primary keys. What matches the rule and lies in the span goes, unless other rows refer to it; rules are carried out
in the order in which they were, children before parents.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from upkeep.backup import content
from upkeep.backup.faults import some
from upkeep.backup.restore.choose import RefusedError
from upkeep.ledger import Ledger
from upkeep.postgres.session import Connection, connect
from upkeep.retention import plan as planning
from upkeep.retention import statements
from upkeep.retention.items import Item, Reference

log = logging.getLogger(__name__)

MARGIN = timedelta(hours=1)
"""Deletions from so long before the snapshot count, too: clocks differ, and a transaction commits after it begins."""

MOST_TURNS = 100
"""Through a table that refers to itself."""

SETTINGS = {"TimeZone": "UTC", "DateStyle": "ISO, YMD", "row_security": "off"}
"""As the sessions that deleted."""


@dataclass(frozen=True)
class Erased:
    """What one plan deleted from one table, as the ledger has it."""

    relation: str
    plan: str
    column: str
    condition: str
    from_keys: tuple[str, ...]
    to_keys: tuple[str, ...]
    rows: int
    ids: Any
    """Sum of hashes of the primary keys; None where there is none."""


@dataclass(frozen=True)
class Again:
    """What became of it in the restored database."""

    relation: str
    plan: str
    recorded: int
    """Rows that were deleted since the backup."""

    gone: int
    """Rows that were deleted again."""

    ids: str
    """Sum of hashes of their primary keys."""

    same: bool
    """Whether these are exactly those; not, when some were written after the backup."""

    stays: int = 0
    """Rows that meet the rule and stay, because others refer to them, as they may have then."""

    absent: bool = False
    """Whether the backup has no such table."""

    @property
    def doubtful(self) -> int:
        """Rows that stay and may be among the erased: nobody can tell."""
        return 0 if self.same else min(self.stays, max(0, self.recorded - self.gone))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def recorded(ledger: Ledger, platform: str, since: datetime) -> list[Mapping[str, Any]]:
    """Deletions from a platform's tables since a moment, in their order."""
    return list(
        ledger.rows(
            "select id, relation, plan, key_column, condition, from_key, to_key, rows, ids, deleted_at from deletions"
            " where platform = %s and deleted_at >= %s and rows > 0 order by deleted_at",
            [platform, since - MARGIN],
        )
    )


def not_yet_told(conninfo: str, since: datetime) -> list[Mapping[str, Any]]:
    """
    Deletions that only the living database knows, as the ledger was away.

    :raises psycopg.Error: it cannot be asked.
    """
    with connect(conninfo) as connection:
        if connection.execute("select to_regclass('upkeep.deletions') as there").fetchone() == {"there": None}:
            return []
        return list(
            connection.execute(
                "select id, relation, plan, key_column, condition, from_key, to_key, rows, ids, deleted_at"
                " from upkeep.deletions where deleted_at >= %s and rows > 0 order by deleted_at",
                [since - MARGIN],
            ).fetchall()
        )


def together(*sources: Iterable[Mapping[str, Any]]) -> list[Erased]:
    """One per table and plan, in the order in which each was begun; the same record counts once."""
    rows = {row["id"]: row for source in sources for row in source}
    found: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in sorted(rows.values(), key=lambda row: row["deleted_at"]):
        found.setdefault((row["relation"], row["plan"], row["condition"]), []).append(row)
    return [
        Erased(
            relation=relation,
            plan=plan,
            column=parts[0]["key_column"],
            condition=condition,
            from_keys=tuple(part["from_key"] for part in parts),
            to_keys=tuple(part["to_key"] for part in parts),
            rows=sum(part["rows"] for part in parts),
            ids=sum(part["ids"] for part in parts) if all(part["ids"] is not None for part in parts) else None,
        )
        for (relation, plan, condition), parts in found.items()
    ]


def replay(
    conninfo: str,
    erased: Sequence[Erased],
    *,
    earlier: Sequence[Mapping[str, Any]] = (),
    counted: bool = False,
    remember: Callable[[list[Again]], object] = lambda done: None,
) -> list[Again]:
    """
    Delete it again in the restored database, all or nothing.

    :param remember: told of the result just before it counts.
    :param earlier: what was told by an earlier try. :param counted: it counted; else it may have been killed just then.
    :raises RefusedError: a rule means nothing there.
    """
    known = {(one["relation"], one["plan"]): Again(**one) for one in earlier}
    with connect(conninfo, statement_timeout=content.LONG, settings=SETTINGS) as connection, connection.transaction():
        done = [_one(connection, one, known.get((one.relation, one.plan)), counted) for one in erased]
        remember(done)
    for again in done:
        log.info("%s: %d rows were erased since, %d of them now again", again.relation, again.recorded, again.gone)
    return done


def sentence(done: Sequence[Again]) -> str:
    """For people: what was erased again, and what nobody can tell."""
    if not done:
        return "nothing was erased since the backup"
    recorded, gone = sum(one.recorded for one in done), sum(one.gone for one in done)
    tables = some(sorted({one.relation for one in done}))
    said = f"{gone:,} rows were erased again, of {recorded:,} that were erased since the backup ({tables})"
    if doubtful := sum(one.doubtful for one in done):
        said += f"; {doubtful:,} more may be among the erased and stay, because other rows of the backup refer to them"
    return said


def _one(connection: Connection, one: Erased, earlier: Again | None, counted: bool) -> Again:
    item = _item(connection, one)
    if item is None:
        return Again(one.relation, one.plan, one.rows, 0, "0", same=False, absent=True)
    values = {"from_keys": list(one.from_keys), "to_keys": list(one.to_keys)}
    meant, free = _meant(item, one), _free(item)
    delete = sql.SQL(
        "with gone as (delete from {table} where {meant} and {free} returning {id} as id)"
        " select count(*) as rows, sum(id::numeric) as ids from gone"
    ).format(table=statements.table(item), meant=meant, free=free, id=statements.identity(item))
    count = sql.SQL("select count(*) as n from {} where {}").format(statements.table(item), meant)
    gone, ids = 0, 0
    try:
        for _ in range(MOST_TURNS):
            row = connection.execute(delete, values).fetchone()
            assert row is not None
            gone, ids = gone + row["rows"], ids + (row["ids"] or 0)
            if not row["rows"] or not item.refers_to_itself:
                break
        stays = connection.execute(count, values).fetchone()
    except (psycopg.errors.SyntaxErrorOrAccessRuleViolation, psycopg.errors.DataException) as wrong:
        raise RefusedError(
            f"the rule by which {one.rows:,} rows of {one.relation} were erased means nothing in the backup:"
            f" {wrong.diag.message_primary}",
            hint="the table looked otherwise then; such rows must be deleted by hand. Nothing was replaced.",
        ) from None
    assert stays is not None
    if earlier is not None and (counted or earlier.gone > gone):
        # One that was killed did all of it or nothing: what it would have done is there to be done again.
        gone, ids = (gone, ids) if counted else (0, 0)
        gone, ids = gone + earlier.gone, ids + int(earlier.ids)
    same = one.ids is not None and (gone, ids) == (one.rows, one.ids)
    return Again(one.relation, one.plan, one.rows, gone, str(int(ids)), same=same, stays=stays["n"])


def _item(connection: Connection, one: Erased) -> Item | None:
    """The table, as retention's statements want it; None when the backup does not have it."""
    row = connection.execute(
        content.query("erased_relation"), {"relation": one.relation, "key_column": one.column}
    ).fetchone()
    if row is None:
        return None
    if row["type"] is None:
        raise RefusedError(
            f"{one.rows:,} rows of {one.relation} were erased by its column {one.column}, which the backup does not"
            " have",
            hint="such rows must be deleted by hand. Nothing was replaced.",
        )
    references = connection.execute(planning.question("references"), {"oid": row["oid"]}).fetchall()
    return Item(
        table=one.relation,
        schema=row["schema"],
        name=row["name"],
        rule=one.relation,
        column=one.column,
        type=row["type"],
        cut_off="",
        primary_key=tuple(row["primary_key"]),
        references=tuple(
            Reference(
                constraint=reference["constraint"],
                schema=reference["schema"],
                name=reference["name"],
                columns=tuple(reference["columns"]),
                refers_to=tuple(reference["refers_to"]),
                on_delete=reference["on_delete"],
                indexed=reference["indexed"],
            )
            for reference in references
        ),
    )


def _meant(item: Item, one: Erased) -> sql.Composed:
    """Its rule, and the span of keys that it went through."""
    kind = sql.SQL(item.type)
    return sql.SQL(
        "{key} >= (select min(one::{kind}) from unnest(%(from_keys)s::text[]) as one)"
        " and {key} <= (select max(one::{kind}) from unnest(%(to_keys)s::text[]) as one) and ({condition})"
    ).format(key=statements.key(item), kind=kind, condition=sql.SQL(one.condition.replace("%", "%%")))


def _free(item: Item) -> sql.Composable:
    """Nothing that stays refers to it: deleting must not take along what was not deleted."""
    refers = [statements.referred_to(item, reference) for reference in item.references]
    return sql.SQL("not ({})").format(sql.SQL(" or ").join(refers)) if refers else sql.SQL("true")
