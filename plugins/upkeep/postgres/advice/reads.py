"""How tables were read since the last look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from upkeep.postgres.advice.look import Look, iso
from upkeep.postgres.advice.memory import grown

KIND = "tables"

COUNTERS = ("seq_scans", "seq_rows", "index_scans", "inserted", "updated", "hot_updated", "deleted")


@dataclass(frozen=True, kw_only=True)
class Read:
    """How one table was read since the last look."""

    oid: int
    table: str
    spoken: str
    """The name that statements use: of a part, that of the whole."""

    rows: float
    bytes: int
    seq_scans: float
    seq_rows: float
    index_scans: float
    since: datetime | None


def since_last_look(look: Look, rows: Sequence[Mapping[str, Any]], server: Mapping[str, Any]) -> list[Read]:
    """The tables of ``tables.sql`` with what their counters have grown, kept for the next run."""
    before = look.earlier.get(KIND)
    old: Mapping[str, Any] = before.content if before else {}
    same = bool(before) and old.get("reset") == iso(server["since"])
    known = old.get("counters", {}) if same else {}
    counters, sizes, born, reads = {}, {}, {}, []
    for row in rows:
        oid = str(row["oid"])
        now = {name: row[name] for name in COUNTERS}
        counters[oid], sizes[oid] = list(now.values()), row["total_bytes"]
        born[oid] = old["born"].get(oid) if oid in old.get("born", {}) else iso(look.now) if before else None
        was = known.get(oid)
        grew = grown(now, dict(zip(COUNTERS, was, strict=True)) if was else None)
        reads.append(
            Read(
                oid=row["oid"],
                table=full_name(row),
                spoken=row["spoken"],
                rows=row["rows"],
                bytes=row["bytes"],
                seq_scans=grew["seq_scans"] or 0.0,
                seq_rows=grew["seq_rows"] or 0.0,
                index_scans=grew["index_scans"] or 0.0,
                since=before.at if same and before else server["since"],
            )
        )
    look.counted[KIND] = {
        "reset": iso(server["since"]),
        "counters": counters,
        "sizes": sizes,
        "born": born,
        "database_bytes": server["database_bytes"],
    }
    return reads


def full_name(row: Mapping[str, Any]) -> str:
    """``schema.table``, for people."""
    return f"{row['schema']}.{row['name']}"
