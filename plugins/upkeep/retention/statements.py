"""
The SQL that counts, claims and deletes the rows of one item.

Values travel as parameters; names as identifiers; the conditions of the platform file as they stand there, so columns
are qualified by the table's own name and the table has no alias.
"""

from __future__ import annotations

from collections.abc import Mapping

from psycopg import sql

from upkeep.retention.items import Item, Reference

_CUT_OFF = sql.SQL("%(cut_off)s")

_ANY = sql.SQL("any(array(select unnest(%(tids)s::tid[])))")
"""A list of places whose length the planner does not know: it would prefer to walk the whole index for a long one."""

_LAST = sql.SQL("last as (select span.key, span.tid from span order by span.key desc, span.tid desc limit 1)")
"""Where the next span begins."""

_RECORDED = sql.SQL(
    "recorded as ("
    " insert into upkeep.deletions (relation, plan, cut_off, key_column, condition, from_key, to_key, rows, ids,"
    " archive)"
    " select %(relation)s, %(plan)s, %(cut_off)s::timestamptz, %(column)s, %(condition)s, min(key)::text,"
    " max(key)::text, count(*), sum(id::numeric), %(archive)s from gone having count(*) > 0"
    " returning to_jsonb(deletions) as record"
    ")"
)
"""Written down in the statement that deletes, without content."""


def table(item: Item) -> sql.Identifier:
    return sql.Identifier(item.schema, item.name)


def column(item: Item, name: str) -> sql.Identifier:
    return sql.Identifier(item.schema, item.name, name)


def key(item: Item) -> sql.Identifier:
    return column(item, item.column)


def _said(condition: str) -> sql.SQL:
    """A condition of the platform file, in parentheses."""
    return sql.SQL("(" + condition.replace("%", "%%") + ")")


def expired(item: Item, cut_off: sql.Composable = _CUT_OFF) -> sql.Composed:
    """Older than the cut-off; NULL never is. Times without a zone are UTC, as the session is."""
    kind = sql.SQL(item.type)
    return sql.SQL("{} < {}::timestamptz::{}").format(key(item), cut_off, kind)


def held(item: Item) -> sql.Composable:
    return _said(item.hold) if item.hold else sql.SQL("false")


def meant(item: Item) -> sql.Composable:
    return _said(item.only) if item.only else sql.SQL("true")


def referred_to(item: Item, reference: Reference, *, goes: Item | None = None) -> sql.Composed:
    """
    Whether a row of the referring table refers to this one; its columns are null where it refers to nothing.

    :param goes: what is due in the referring table; its rows that go anyway do not count.
    """
    itself = (reference.schema, reference.name) == (item.schema, item.name)
    source: sql.Composable = sql.Identifier(reference.schema, reference.name)
    prefix = ("referring",) if itself else (reference.schema, reference.name)
    parts: list[sql.Composable] = [
        sql.SQL("{} = {}").format(sql.Identifier(*prefix, theirs), column(item, ours))
        for theirs, ours in zip(reference.columns, reference.refers_to, strict=True)
    ]
    if itself:
        source = sql.SQL("{} as referring").format(source)
        parts.append(sql.SQL("referring.ctid <> {}").format(column(item, "ctid")))
        if goes is not None:
            old = sql.SQL("(referring.{} < %(cut_off)s::timestamptz::{}) is not true")
            parts.append(old.format(sql.Identifier(item.column), sql.SQL(item.type)))
    elif goes is not None:
        due = [expired(goes, sql.Literal(goes.cut_off)), meant(goes), sql.SQL("{} is not true").format(held(goes))]
        parts.append(sql.SQL("({}) is not true").format(sql.SQL(" and ").join(due)))
    return sql.SQL("exists (select from {} where {})").format(source, sql.SQL(" and ").join(parts))


def may_go(item: Item) -> sql.Composed:
    """The whole condition of a row that is deleted, to be true at the moment it is."""
    parts: list[sql.Composable] = [expired(item), meant(item), sql.SQL("{} is not true").format(held(item))]
    parts += [sql.SQL("not ") + referred_to(item, reference) for reference in item.references]
    return sql.SQL(" and ").join(parts)


def span(item: Item, *, after: bool, inclusive: bool) -> sql.Composed:
    """
    The next ``rows`` rows in the order of the index, whatever becomes of them.

    Looking at a number of rows, not for a number of hits, bounds the time also where few rows meet the condition. The
    lower bound spares the dead entries of earlier batches, which an old snapshot keeps in the index.
    """
    kind = sql.SQL(item.type)
    bound: sql.Composable = sql.SQL("")
    if after:
        bound = sql.SQL(" and {} >= %(after_key)s::{}").format(key(item), kind)
        if not inclusive:
            # Equal keys come in the order of their place in the table (PostgreSQL 13).
            later = sql.SQL(" and ({} > %(after_key)s::{} or {} > %(after_tid)s::tid)")
            bound = bound + later.format(key(item), kind, column(item, "ctid"))
    return sql.SQL("select {} as tid, {} as key from {} where {}{} order by {} limit %(rows)s").format(
        column(item, "ctid"), key(item), table(item), expired(item), bound, key(item)
    )


def claim(item: Item, *, after: bool, inclusive: bool) -> sql.Composed:
    """Lock what may go of the next span, without waiting. One row: seen, last_key, last_tid, tids, skipped_key."""
    return sql.SQL(
        "with span as materialized ({span}), eligible as materialized ("
        " select {ctid} as tid, {key} as key from {table} where {ctid} = any(array(select tid from span)) and {may_go}"
        "), claimed as materialized ("
        " select {ctid} as tid from {table} where {ctid} = any(array(select tid from eligible))"
        " for update skip locked"
        "), {last} select (select count(*) from span) as seen,"
        " (select key::text from last) as last_key, (select tid::text from last) as last_tid,"
        " (select array_agg(tid)::text from claimed) as tids,"
        " case when (select count(*) from eligible) > (select count(*) from claimed) then ("
        "  select min(e.key)::text from eligible as e where not exists (select from claimed as c where c.tid = e.tid)"
        " ) end as skipped_key"
    ).format(
        span=span(item, after=after, inclusive=inclusive),
        ctid=column(item, "ctid"),
        key=key(item),
        table=table(item),
        may_go=may_go(item),
        last=_LAST,
    )


def claim_versions(item: Item) -> sql.Composed:
    """Lock exactly these versions of rows, without waiting: what changed since it was archived stays."""
    return sql.SQL(
        "with here as materialized ("
        " select {ctid} as tid, {xmin}::text as xmin from {table} where {ctid} = {any} and {may_go}"
        "), same as materialized ("
        " select here.tid from here join unnest(%(tids)s::tid[], %(xmins)s::text[]) as version (tid, xmin)"
        " on here.tid = version.tid and here.xmin = version.xmin"
        "), claimed as materialized ("
        " select {ctid} as tid from {table} where {ctid} = any(array(select tid from same)) for update skip locked"
        ") select array_agg(tid)::text as tids from claimed"
    ).format(ctid=column(item, "ctid"), xmin=column(item, "xmin"), table=table(item), any=_ANY, may_go=may_go(item))


def look(item: Item, others: Mapping[tuple[str, str], Item]) -> sql.Composed:
    """
    Count what is due and what stays. One row: due, held, referenced, oldest, newest.

    :param others: the plan's items so far, by schema and name: their due rows will not hold back anything.
    """
    refers = [referred_to(item, ref, goes=others.get((ref.schema, ref.name), _itself(item, ref)))
              for ref in item.references]  # fmt: skip
    kept = sql.SQL(" or ").join(refers) if refers else sql.SQL("false")
    free = sql.SQL("{} and {} is not true").format(meant(item), held(item))
    due = sql.SQL("{} and ({}) is not true").format(free, kept)
    return sql.SQL(
        "select count(*) filter (where due) as due, count(*) filter (where held) as held,"
        " count(*) filter (where free and not due) as referenced,"
        " min(key) filter (where due)::text as oldest, max(key) filter (where due)::text as newest"
        " from (select {key} as key, ({due}) is true as due, ({held}) is true as held, ({free}) is true as free"
        " from {table} where {expired} offset 0) as expired"
    ).format(key=key(item), due=due, held=held(item), free=free, table=table(item), expired=expired(item))


def _itself(item: Item, reference: Reference) -> Item | None:
    return item if (reference.schema, reference.name) == (item.schema, item.name) else None


def identity(item: Item) -> sql.Composable:
    """A number for the row that gives nothing away; null without a primary key."""
    if not item.primary_key:
        return sql.SQL("null::bigint")
    parts = [sql.SQL("{}::text").format(column(item, name)) for name in item.primary_key]
    whole = parts[0] if len(parts) == 1 else sql.SQL("concat_ws(',', {})").format(sql.SQL(", ").join(parts))
    return sql.SQL("hashtextextended({}, 0)").format(whole)


def delete(item: Item, *, versions: bool = False) -> sql.Composed:
    """
    Delete the claimed rows and write down that they went, in one statement. One row: rows, tids, record.

    The locks keep new references away, and this statement sees what was committed before they were taken.

    :param versions: only what transactions in ``xmins`` wrote: a row that was updated just before its lock was taken
        is locked as it is now, and that is not what was archived.
    """
    same = sql.SQL(" and {}::text = any(%(xmins)s::text[])").format(column(item, "xmin")) if versions else sql.SQL("")
    return sql.SQL(
        "with gone as (delete from {table} where {ctid} = {any} and {may_go}{same} returning {returning}), {recorded}"
        " select count(*) as rows, array_agg(tid)::text as tids, (select record from recorded) as record from gone"
    ).format(
        table=table(item),
        ctid=column(item, "ctid"),
        any=_ANY,
        may_go=may_go(item),
        same=same,
        returning=_returning(item),
        recorded=_RECORDED,
    )


def is_plain(item: Item) -> bool:
    """Whether nothing but a row's own age decides, which no other transaction can change behind a lock's back."""
    return not (item.references or item.only or item.hold)


def claim_and_delete(item: Item, *, after: bool, inclusive: bool) -> sql.Composed:
    """
    The whole transaction of a plain item in one statement: claim, delete, write down, and remember how far.

    Rows that others hold locks on are passed by without a word: ``first_expired`` finds them.

    One row: seen, record, and of ``upkeep.retention`` after_key, after_tid, batches, deleted.
    """
    return sql.SQL(
        "with span as materialized ({span} for update skip locked), gone as ("
        " delete from {table} where {ctid} = any(array(select tid from span)) and {expired} returning {returning}"
        "), {recorded}, {last}, moved as ("
        " update upkeep.retention as r set after_key = last.key::text, after_tid = last.tid, batches = r.batches + 1,"
        " deleted = r.deleted + (select count(*) from gone), updated_at = clock_timestamp()"
        " from last where r.relation = %(relation)s"
        " returning r.after_key, r.after_tid::text, r.batches, r.deleted"
        ") select (select count(*) from span) as seen, (select record from recorded) as record, moved.*"
        " from (select) as always left join moved on true"
    ).format(
        span=span(item, after=after, inclusive=inclusive),
        ctid=column(item, "ctid"),
        table=table(item),
        expired=expired(item),
        returning=_returning(item),
        recorded=_RECORDED,
        last=_LAST,
    )


def first_expired(item: Item) -> sql.Composed:
    """The key of the first row that is expired still."""
    return sql.SQL("select {}::text as key from {} where {} order by {} limit 1").format(
        key(item), table(item), expired(item), key(item)
    )


def _returning(item: Item) -> sql.Composed:
    return sql.SQL("{} as tid, {} as key, {} as id").format(column(item, "ctid"), key(item), identity(item))


def condition(item: Item) -> str:
    """The rule in words of SQL, as the deletion ledger keeps it for replay after a restore."""
    parts = [f"{item.column} < '{item.cut_off}'"]
    parts += [f"({item.only})"] if item.only else []
    parts += [f"({item.hold}) is not true"] if item.hold else []
    return " and ".join(parts)
