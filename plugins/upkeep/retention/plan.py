"""What the platform's rules would delete now: per table, children first, with what stands in the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from graphlib import CycleError, TopologicalSorter
from typing import Any

from psycopg import sql

from upkeep.errors import SettingsError
from upkeep.plan import Asked, Planned, Slot
from upkeep.platforms.database import Retention, Table
from upkeep.postgres.session import Connection, connect
from upkeep.retention import statements
from upkeep.retention.cap import judge
from upkeep.retention.items import Item, Reference
from upkeep.settings import ROOT

COUNTED_EXACTLY = 20_000_000
"""A table with more rows is compared with the statistics' estimate of its size."""

COUNT = timedelta(minutes=15)
"""For each count."""

_TIMES = ("timestamp with time zone", "timestamp without time zone", "date")


def question(name: str) -> str:
    """The text of ``include/sql/retention/<name>.sql``."""
    return (ROOT / "include" / "sql" / "retention" / f"{name}.sql").read_text()


def make(connection: Connection, tables: Sequence[Table], *, now: datetime) -> list[Item]:
    """
    Every table that has a rule, children before their parents; nothing is touched.

    :param connection: as the maintenance role, its session in UTC; ``statement_timeout`` bounds each count.
    :param now: against which ages are measured; the cut-offs are stored in the plan.
    :raises SettingsError: the platform file names a table or a column that is not there, or that is no time.
    """
    rules = {table.name: table.retention for table in tables if table.retention is not None}
    found = connection.execute(
        question("relations"), {"tables": list(rules), "columns": [rule.column for rule in rules.values()]}
    ).fetchall()
    items: list[Item] = []
    for row in found:
        rule = rules[row["asked"]]
        _there(row, rule)
        items += _of(connection, row, rule, now)
    items = _children_first(items)
    counted: dict[tuple[str, str], Item] = {}
    for item in items:
        if not item.refused:
            _count(connection, item, counted)
        counted[item.schema, item.name] = item
    return items


def _there(row: Mapping[str, Any], rule: Retention) -> None:
    hint = "correct `postgres.tables` in the platform file."
    if row["oid"] is None:
        raise SettingsError(f"no table {row['asked']!r} in the database", hint=hint)
    if row["key_type"] is None:
        raise SettingsError(f"table {row['asked']!r} has no column {rule.column!r}", hint=hint)
    if row["key_type"] not in _TIMES:
        raise SettingsError(f"{row['asked']}.{rule.column} is a {row['key_type']}, not a time", hint=hint)


def _of(connection: Connection, row: Mapping[str, Any], rule: Retention, now: datetime) -> list[Item]:
    """One item, or one per partition."""
    if row["kind"] == "r":
        return [_item(connection, row, row, rule, now)]
    cut_off = now - rule.keep
    made = []
    leaves = connection.execute(question("partitions"), {"oid": row["oid"], "key_column": rule.column}).fetchall()
    for leaf in leaves:
        item = _item(connection, row, leaf, rule, now)
        whole = leaf["by_key"] and leaf["direct"] and _before(connection, leaf, cut_off)
        if rule.drop_partitions and whole and connection.info.server_version >= 140000:
            item.act, item.bound = "drop", leaf["bound"]
            item.parent = sql.Identifier(row["schema"], row["name"]).as_string(connection)
        elif leaf["pending"]:
            item.refused = "its DETACH PARTITION CONCURRENTLY was interrupted"
            item.hint = (
                f"as its owner: alter table {row['schema']}.{row['name']} detach partition {item.table} finalize;"
            )
        made.append(item)
    return made


def _before(connection: Connection, leaf: Mapping[str, Any], cut_off: datetime) -> bool:
    """Whether every row that the partition may hold is expired."""
    answer = connection.execute(
        "select %s::timestamptz <= %s as whole", [leaf["upper_bound"], cut_off.isoformat()]
    ).fetchone()
    return bool(answer and answer["whole"])


def _item(
    connection: Connection, row: Mapping[str, Any], leaf: Mapping[str, Any], rule: Retention, now: datetime
) -> Item:
    references = connection.execute(question("references"), {"oid": leaf["oid"]}).fetchall()
    item = Item(
        table=f"{leaf['schema']}.{leaf['name']}",
        schema=leaf["schema"],
        name=leaf["name"],
        rule=row["asked"],
        column=rule.column,
        type=row["key_type"],
        cut_off=(now - rule.keep).astimezone(UTC).isoformat(),
        only=rule.only,
        hold=rule.hold,
        archive=rule.archive,
        primary_key=tuple(row["primary_key"]),
        references=tuple(_reference(reference) for reference in references),
    )
    item.notes += [f"trigger {name} fires on each deleted row" for name in row["triggers"]]
    item.notes += [f"publication {name} sends the deletes to its subscribers" for name in row["publications"]]
    if not row["indexed"]:
        concurrently = "concurrently " if row["kind"] == "r" else ""
        item.refused = f"no index leads with {rule.column}"
        item.hint = f"as its owner: create index {concurrently}on {row['schema']}.{row['name']} ({rule.column});"
    return item


def _reference(row: Mapping[str, Any]) -> Reference:
    return Reference(
        constraint=row["constraint"],
        schema=row["schema"],
        name=row["name"],
        columns=tuple(row["columns"]),
        refers_to=tuple(row["refers_to"]),
        on_delete=row["on_delete"],
        indexed=row["indexed"],
    )


def _children_first(items: Sequence[Item]) -> list[Item]:
    """Referring tables before those they refer to; a circle is broken anywhere: rows referred to stay anyway."""
    by_rule: dict[str, list[Item]] = {}
    for item in items:
        by_rule.setdefault(item.rule, []).append(item)
    names = {item.table: item.rule for item in items} | {item.rule: item.rule for item in items}
    names |= {f"{item.schema}.{item.rule}": item.rule for item in items if "." not in item.rule}
    before: dict[str, set[str]] = {rule: set() for rule in by_rule}
    for item in items:
        before[item.rule] |= {names[ref.table] for ref in item.references if ref.table in names} - {item.rule}
    while True:
        try:
            return [item for rule in TopologicalSorter(before).static_order() for item in by_rule[rule]]
        except CycleError as circle:
            child, parent = circle.args[1][0], circle.args[1][1]
            before[parent].discard(child)
            before[child].discard(parent)


def _count(connection: Connection, item: Item, others: Mapping[tuple[str, str], Item]) -> None:
    seen = connection.execute(statements.look(item, others), {"cut_off": item.cut_off}).fetchone()
    size = connection.execute(
        "select reltuples::bigint as estimated, pg_total_relation_size(oid) as bytes from pg_class"
        " where oid = format('%%I.%%I', %s::text, %s::text)::regclass",
        [item.schema, item.name],
    ).fetchone()
    assert seen is not None
    assert size is not None
    item.due, item.held, item.referenced = seen["due"], seen["held"], seen["referenced"]
    item.oldest, item.newest = seen["oldest"], seen["newest"]
    item.rows = size["estimated"]
    if item.rows <= COUNTED_EXACTLY:
        item.rows = _number(connection, sql.SQL("select count(*) as n from {}").format(statements.table(item)))
    nulls = sql.SQL("select count(*) as n from {} where {} is null")
    item.without_key = _number(connection, nulls.format(statements.table(item), statements.key(item)))
    item.bytes = round(size["bytes"] * item.due / item.rows) if item.rows else 0
    if item.act == "drop" and item.due < item.rows:
        item.act = "delete"
        item.notes.append(f"not dropped as a whole: {item.rows - item.due:,} of its rows stay")


def _number(connection: Connection, counting: sql.Composed) -> int:
    row = connection.execute(counting).fetchone()
    assert row is not None
    return int(row["n"])


def stays(connection: Connection, item: Item) -> Mapping[str, Any]:
    """After the deed: due (what could not be had), held, referenced. Nothing else of the plan counts as going."""
    row = connection.execute(statements.look(item, {}), {"cut_off": item.cut_off}).fetchone()
    assert row is not None
    return row


def recount(connection: Connection, items: Sequence[Item]) -> None:
    """Hold a plan that a person approved against what is due by it now: more than that was not approved."""
    counted: dict[tuple[str, str], Item] = {}
    for item in items:
        if not item.refused:
            now = connection.execute(statements.look(item, counted), {"cut_off": item.cut_off}).fetchone()
            assert now is not None
            if now["due"] > item.due:
                item.refused = f"{now['due']:,} rows are due by the approved plan, approved were {item.due:,}"
                item.hint = "run it as a dry run and look at the new plan."
        counted[item.schema, item.name] = item


def coming(asked: Asked) -> list[Planned]:
    """What the next monthly window would delete, table by table; see ``upkeep.plan``."""
    windows, section = asked.windows("monthly"), asked.platform.postgres
    if not windows or section is None or not any(table.retention for table in section.tables):
        return []
    slot = windows[0]
    with connect(asked.maintenance, statement_timeout=COUNT, settings={"TimeZone": "UTC"}) as connection:
        items = make(connection, section.tables, now=slot.starts)
    if asked.ledger is not None:
        judge(items, section.deletion, asked.ledger, asked.platform.name, slot.starts)
    return [_planned(slot, item) for item in items if item.due or item.refused]


def _planned(slot: Slot, item: Item) -> Planned:
    because = f"{item.due:,} of {item.rows:,} rows are older than {item.cut_off[:10]}"
    because += f"; {item.held:,} are held" if item.held else ""
    because += f"; {item.referenced:,} stay because others refer to them" if item.referenced else ""
    locks = "RowExclusive, and the rows themselves for a moment; reads and writes go on"
    if item.act == "drop":
        locks = "ShareUpdateExclusive on the parent to detach; nobody uses the partition when it is dropped"
    return Planned(
        slot=slot,
        object=item.table,
        act="DETACH PARTITION CONCURRENTLY, DROP" if item.act == "drop" else "DELETE in small transactions",
        seconds=item.seconds,
        bytes=item.bytes,
        locks=locks,
        because=("archived first; " if item.archive else "") + because,
        left_out=item.refused or (f"a person must say yes: {item.beyond}" if item.beyond else ""),
    )
