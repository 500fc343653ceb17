"""What interrupted rebuilds left behind, dropped by the role that acts as the tables' owner."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Literal

import psycopg
from psycopg import sql

from upkeep.postgres.session import Connection, connect, query, statement_timeout

LOCK = timedelta(seconds=5)
"""DROP INDEX CONCURRENTLY waits for whoever uses the table; the next run tries again."""

PAUSES_S = (0.0, 5.0, 15.0)

Kind = Literal["ccnew", "ccold"]


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """An invalid index that costs writes and serves nobody."""

    index: str
    """``schema.name``, for people."""

    schema: str
    name: str
    oid: int
    kind: Kind
    """``ccold``: the rebuild was done, and only its old index remains; ``ccnew``: the new one was never finished."""

    of_index: str | None
    """Name of the index that it belongs to; None when nobody knows, and then it is nobody's to drop."""

    of_oid: int | None
    bytes: int
    table: str
    allowed: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def find(connection: Connection, table: str | None = None) -> list[Leftover]:
    """
    All leftovers, those of live builders not among them; as the owner role, so that ``allowed`` means something.

    :param table: ``schema.name``, to ask about one table.
    """
    rows = connection.execute(query("reindex/leftovers")).fetchall()
    found = [
        Leftover(
            index=f"{row['schema']}.{row['name']}",
            table=f"{row.pop('table_schema')}.{row.pop('table_name')}",
            **row,
        )
        for row in rows
    ]
    return [one for one in found if table in (None, one.table)]


def ours(found: Sequence[Leftover]) -> list[Leftover]:
    """Those that certainly come from a rebuild, and that this role may drop."""
    return [one for one in found if one.of_index and one.allowed]


def drop(conninfo: str, item: Mapping[str, Any], *, pauses_s: Sequence[float] = PAUSES_S) -> dict[str, Any]:
    """
    Drop one leftover, if it is still one.

    :param conninfo: of the owner role. :param item: as ``Leftover.as_dict`` gives it.
    :returns: ``state``: ``done``, ``gone``, ``locked`` or ``refused``, with its ``reason``.
    """
    name = sql.Identifier(item["schema"], item["name"])
    with connect(conninfo, lock_timeout=LOCK) as connection:
        for pause_s in pauses_s:
            time.sleep(pause_s)
            # Asked again each time: a name may have come to stand for something else.
            if item["oid"] not in {one.oid for one in ours(find(connection))}:
                return {"state": "gone", "reason": "it is not there any more, or somebody works on it"}
            try:
                with statement_timeout(connection, timedelta(minutes=5)):
                    connection.execute(sql.SQL("drop index concurrently if exists {}").format(name))
                return {"state": "done", "reason": ""}
            except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled, psycopg.errors.DeadlockDetected):
                continue
            except psycopg.errors.InsufficientPrivilege as no:
                return {"state": "refused", "reason": str(no.diag.message_primary)}
    return {
        "state": "locked",
        "reason": f"its table {item['table']} was in use for more than {LOCK.seconds} s each time",
    }
