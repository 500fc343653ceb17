"""
Which tables need VACUUM or ANALYZE.

Need is the score by which PostgreSQL 19 orders autovacuum's work, computed in SQL so that it is the same on every
version: the largest ratio of dead, inserted or changed rows, or of age, to autovacuum's own threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from upkeep.errors import SettingsError
from upkeep.platforms.services import Vacuum
from upkeep.postgres.session import Connection, query, statement_timeout
from upkeep.postgres.snapshots import Holder, old_snapshot

Arm = Literal["freeze", "vacuum", "analyze"]

FREEZE_FROM = 0.6
"""Share of autovacuum_freeze_max_age from which a table is frozen here, in the window and with its manners, before
autovacuum does it at any hour and yields to nobody."""

CHOOSE_S = 60
"""For the choosing query; 10,000 tables take well below a second."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """One table that VACUUM or ANALYZE would do good."""

    table: str
    """``schema.name``, for people."""

    schema: str
    name: str
    kind: str
    """``table``, ``materialized view`` or ``partitioned table``."""

    arm: Arm
    """``freeze`` wards off wraparound and goes first; ``vacuum`` includes ANALYZE; ``analyze`` is that alone."""

    score: float
    """1 is where autovacuum would begin."""

    because: str
    """The part of the score that is largest, with its numbers."""

    allowed: bool
    """Whether this role may."""

    owner: str
    failsafe: bool
    """So near to wraparound that nothing but freezing counts."""

    facts: Mapping[str, Any]
    """Parts of the score, rows, bytes, and when it was last cared for (ISO 8601, UTC)."""

    work_bytes: int
    """What the server would have to read for it."""

    held_by: str = ""
    """Who holds a snapshot so old that dead rows may stay whatever we do; empty when nobody."""

    in_vain: str = ""
    """Why VACUUM would remove next to nothing now; empty when it would do good."""

    def as_dict(self) -> dict[str, Any]:
        """JSON values only, as XCom and the ledger's plan want them."""
        return asdict(self)


def tables_in_need(
    connection: Connection,
    settings: Vacuum,
    *,
    only: tuple[str, str] | None = None,
    old: timedelta | None = None,
    foreseen_from: float = 1.0,
) -> list[Need]:
    """
    The neediest tables, freeze before all, at most ``settings.most_tables``; what is being vacuumed now is left out.

    :param only: ``(schema, name)``, to ask about one table.
    :param old: snapshots held longer than this count; five minutes unless said otherwise.
    :param foreseen_from: tables that have come this share of the way to ``settings.least_score`` are returned as well,
        for a forecast, then at most a thousand in all.
    :raises SettingsError: the server is a standby, where nothing can be vacuumed, or older than PostgreSQL 13.
    """
    if connection.info.server_version < 130000:
        raise SettingsError(
            f"PostgreSQL {connection.info.server_version // 10000} is older than 13",
            hint="upgrade it: its last minor release was years ago.",
        )
    with statement_timeout(connection, timedelta(seconds=CHOOSE_S)):
        standby = connection.execute("select pg_is_in_recovery() as yes").fetchone()
        if standby and standby["yes"]:
            raise SettingsError(
                "this server is a standby; VACUUM and ANALYZE run on the primary",
                hint="let the connection name the primary, or several hosts with `target_session_attrs=read-write`.",
            )
        schema, name = only or (None, None)
        rows = connection.execute(
            query("tables_in_need"),
            {
                "least_score": settings.least_score * foreseen_from,
                "due_from": settings.least_score,
                "freeze_from": FREEZE_FROM,
                "most_tables": settings.most_tables if foreseen_from == 1.0 else 1000,
                "schema": schema,
                "name": name,
            },
        ).fetchall()
        holder = (old_snapshot(connection, old) if old is not None else old_snapshot(connection)) if rows else None
    return [_need(row, holder, settings) for row in rows]


_PARTS = {
    "dead_score": "{dead_rows:,} dead rows ({dead_score:.1f} × {own})",
    "insert_score": "{inserted_rows:,} rows inserted since the last VACUUM ({insert_score:.1f} × {own})",
    "analyze_score": "{changed_rows:,} rows changed since the last ANALYZE ({analyze_score:.1f} × {own})",
    "root_score": "{changed_rows:,} rows changed since the last ANALYZE ({root_score:.1f} × √(1,000 × rows))",
    "missing_score": "it has {rows:,} rows and no statistics",
    "xid_score": "{transactions_unfrozen:,} transactions not frozen ({xid_score:.1f} × {own})",
    "mxid_score": "{multixacts_unfrozen:,} multixacts not frozen ({mxid_score:.1f} × {own})",
}
_LAST = ("last_vacuum", "last_autovacuum", "last_analyze", "last_autoanalyze")
_OWN = ("schema", "name", "kind", "arm", "score", "allowed", "owner", "failsafe", "work_bytes")


def _need(row: Mapping[str, Any], holder: Holder | None, settings: Vacuum) -> Need:
    parts = [part for part in _PARTS if row["arm"] != "freeze" or part.endswith("xid_score")]
    largest = max(parts, key=lambda part: float(row[part]))
    facts = {
        **{part: round(float(row[part]), 3) for part in _PARTS},
        **{key: value for key, value in row.items() if key not in (*_OWN, *_PARTS, *_LAST)},
        **{last: row[last].astimezone(UTC).isoformat() if row[last] else None for last in _LAST},
    }
    because = _PARTS[largest].format(**row, own="autovacuum's threshold")
    if row["kind"] == "partitioned table" and largest != "missing_score":
        because += ", in all its partitions, whose parent autovacuum never analyzes"
    return Need(
        table=f"{row['schema']}.{row['name']}",
        **{key: row[key] for key in _OWN if key != "score"},
        score=round(float(row["score"]), 3),
        because=because,
        facts=facts,
        held_by=str(holder) if holder else "",
        in_vain=_in_vain(row, holder, settings),
    )


def _in_vain(row: Mapping[str, Any], holder: Holder | None, settings: Vacuum) -> str:
    """
    Why VACUUM would be pointless: most of the dead rows died after the snapshot that somebody still holds.

    How many did is not to be had from PostgreSQL; rows are taken to die evenly since the last VACUUM, which removed
    what was dead before it. Freezing and inserted rows (their visibility map) are worth a VACUUM whatever is held.
    """
    if holder is None or holder.since is None or row["arm"] != "vacuum" or row["insert_score"] >= settings.least_score:
        return ""
    last = max((row[key] for key in ("last_vacuum", "last_autovacuum") if row[key]), default=None)
    if last is None:
        return ""
    now = datetime.now(UTC)
    removable = (holder.since - last) / max(now - last, timedelta(seconds=1))
    return f"dead rows cannot be removed while they may be seen by {holder}" if removable < 0.5 else ""
