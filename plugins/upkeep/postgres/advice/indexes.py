"""Indexes that cost writes and disk and give nothing: unused, duplicate, contained in another, invalid."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from upkeep.errors import UpkeepError
from upkeep.findings import Finding, Outcome, Severity, judged
from upkeep.health.side_by_side import one_line
from upkeep.postgres.advice.look import Look, day, iso, moment
from upkeep.postgres.session import connect
from upkeep.report.wording import counted, size

UNUSED = "postgres_unused_indexes"
DUPLICATE = "postgres_duplicate_indexes"
INVALID = "postgres_invalid_indexes"

KIND = "indexes"

MOST = 50
"""Findings of one check, the largest first: whoever has more of them begins there. All are counted."""

SHOWN = 30
"""Rows of a table in the report."""


@dataclass(frozen=True)
class Index:
    """One index, or the top of a partitioned one; see ``indexes.sql``."""

    row: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.row['schema']}.{self.row['name']}"

    @property
    def table(self) -> str:
        return f"{self.row['schema_of_table']}.{self.row['table_name']}"

    @property
    def purpose(self) -> str:
        """What it is for even if it is never scanned; empty when nothing is known."""
        said = {
            "is_primary": "primary key",
            "is_constraint": "constraint",
            "is_unique": "unique",
            "is_replica_identity": "replica identity",
            "supports_foreign_key": "supports a foreign key",
        }
        return next((words for key, words in said.items() if self.row[key]), "")

    @property
    def what(self) -> str:
        """``btree (user_id, created_at)``."""
        return f"{self.row['method']} ({', '.join(self.row['columns'])})"


def report(look: Look) -> list[Outcome]:
    """Unused, duplicate and invalid indexes."""
    indexes = [Index(row) for row in look.ask("indexes")]
    return [_unused(look, indexes), _duplicates(indexes), _invalid(indexes)]


# -- unused --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standbys:
    """What the other servers know of the same indexes."""

    used: Mapping[int, tuple[float, datetime | None]]
    """Scans and, from 16 on, the last one; by oid, over all standbys."""

    since: datetime | None
    """When the youngest of their statistics began."""

    asked: int
    unasked: tuple[str, ...]
    """Standbys that stream and did not answer, with the reason."""


def _unused(look: Look, indexes: list[Index]) -> Outcome:
    server = look.ask_one("statistics_since")
    standbys = _ask_standbys(look, server)
    observed = look.settings.advice.observed
    before = look.earlier.get(KIND)
    remembered: Mapping[str, Any] = before.content if before else {}
    idle_since, content = {}, {}
    for index in indexes:
        oid = str(index.row["oid"])
        old = remembered.get(oid)
        scans = index.row["scans"] + standbys.used.get(index.row["oid"], (0.0, None))[0]
        # One that was not there at the last look may have been made a minute ago.
        born = moment(old["born"]) if old else look.now if before else None
        still = moment(old["still"]) if old and old["scans"] == scans else look.now
        content[oid] = {"scans": scans, "still": iso(still), "born": iso(born)}
        idle_since[index.name] = _idle_since(index, standbys, server["since"], born, still)
    look.counted[KIND] = content
    candidates = [index for index in indexes if not index.purpose and index.row["is_valid"]]
    unused, early = [], []
    for index in candidates:
        idle = idle_since[index.name]
        if idle and look.now - idle >= observed:
            unused.append(index)
        elif content[str(index.row["oid"])]["scans"] == 0:
            early.append(index)
    unused.sort(key=lambda index: -index.row["bytes"])
    not_asked = (
        f"; {counted(len(standbys.unasked), 'standby', 'standbys')} could not be asked: {', '.join(standbys.unasked)}"
        if standbys.unasked
        else ""
    )
    findings = [_drop(index, look, idle_since[index.name], standbys, not_asked) for index in unused[:MOST]]
    verdicts = {index.name: "unused" for index in unused} | {index.name: "too early to say" for index in early}
    facts: dict[str, Any] = {
        "indexes": len(indexes),
        "unused": len(unused),
        "unused_bytes": sum(index.row["bytes"] for index in unused),
        "too_early": len(early),
        "statistics_since": iso(server["since"]),
        "standbys_asked": standbys.asked,
        "standbys_not_asked": list(standbys.unasked),
        "never_scanned": [
            {
                "index": index.name,
                "on": index.what,
                "bytes": index.row["bytes"],
                "idle_since": iso(idle_since[index.name]),
                "verdict": index.purpose or verdicts.get(index.name, "invalid"),
            }
            for index in sorted(indexes, key=lambda index: -index.row["bytes"])
            if index.name in verdicts or (index.row["scans"] == 0 and not index.row["is_primary"])
        ][:SHOWN],
    }
    return judged(UNUSED, Severity.P3, findings, **facts)


def _idle_since(
    index: Index, standbys: Standbys, counting_since: datetime | None, born: datetime | None, still: datetime | None
) -> datetime | None:
    """
    Since when nobody has scanned an index, as far as anybody can know; None when it is in use.

    Before PostgreSQL 16 nothing says when the last scan was: there it is since Upkeep has seen the count stand still.
    """
    there_scans, there_last = standbys.used.get(index.row["oid"], (0.0, None))
    times = [counting_since, standbys.since, index.row["stats_reset"], born]
    if index.row["scans"] + there_scans > 0:
        lasts = [index.row["last_scan"] if index.row["scans"] else None, there_last if there_scans else None]
        known = [last for last in lasts if last]
        expected = (index.row["scans"] > 0) + (there_scans > 0)
        times.append(max(known) if len(known) == expected else still)
    return max((at for at in times if at), default=None)


def _ask_standbys(look: Look, server: Mapping[str, Any]) -> Standbys:
    """Index statistics are each server's own, so whoever reads from a standby is seen only there."""
    streaming = [] if server["in_recovery"] else look.ask("standbys")
    used: dict[int, tuple[float, datetime | None]] = {}
    since: list[datetime] = []
    refused, asked = [], 0
    found = [make_conninfo(look.conninfo, host=row["address"]) for row in streaming if row["address"]]
    for conninfo in look.standbys or found:
        try:
            with connect(conninfo) as connection:
                there = Look(connection=connection, settings=look.settings)
                state = there.ask_one("statistics_since")
                if not state["in_recovery"] or state["system"] != server["system"]:
                    continue
                rows = there.ask("indexes")
        except (psycopg.Error, UpkeepError) as trouble:
            refused.append(one_line(trouble, 120))
            continue
        asked += 1
        since += [state["since"]] if state["since"] else []
        for row in rows:
            scans, last = used.get(row["oid"], (0.0, None))
            both = [at for at in (last, row["last_scan"]) if at]
            used[row["oid"]] = (scans + row["scans"], max(both, default=None))
    missing = max(len(streaming), look.settings.standbys if not server["in_recovery"] else 0) - asked
    names = [row["name"] for row in streaming][:missing] if missing > 0 else []
    unasked = [*names, *["one that does not stream"] * max(0, missing - len(names))]
    if unasked and refused:
        unasked[-1] += f" ({'; '.join(refused)})"
    return Standbys(used, max(since, default=None), asked, tuple(unasked))


def _drop(index: Index, look: Look, idle: datetime | None, standbys: Standbys, not_asked: str) -> Finding:
    row = index.row
    ever = f"{counted(int(row['scans']), 'scan')}, the last before {day(idle)}" if row["scans"] and idle else ""
    never = f"not one scan since {day(idle)}" if idle else "not one scan"
    hint = f"ask the application's owner, then: drop index concurrently {_quoted(row['schema'], row['name'])};"
    if not_asked:
        hint = (
            "first look at pg_stat_user_indexes on every standby (extra `upkeep_standbys` of the connection); " + hint
        )
    return Finding(
        check=UNUSED,
        object=index.name,
        severity=Severity.P4,
        summary=f"{size(row['bytes'])} {index.what} on {index.table}: {ever or never}{not_asked}",
        hint=hint,
        facts={
            "bytes": row["bytes"],
            "scans": row["scans"],
            "idle_since": iso(idle),
            "idle_s": round((look.now - idle).total_seconds()) if idle else None,
            "standbys_asked": standbys.asked,
        },
    )


# -- duplicates ----------------------------------------------------------------------------------------


def _duplicates(indexes: Iterable[Index]) -> Outcome:
    same: dict[str, list[Index]] = defaultdict(list)
    by_table: dict[str, list[Index]] = defaultdict(list)
    for index in indexes:
        if index.row["is_valid"]:
            same[index.row["signature"]].append(index)
            by_table[index.table].append(index)
    findings = []
    redundant = set()
    for group in same.values():
        kept, *others = sorted(group, key=_worth)
        for index in others:
            if not _needed(index, kept):
                findings.append(_redundant(index, kept, "has the same columns as"))
                redundant.add(index.name)
    for table in by_table.values():
        for index in table:
            if index.name in redundant or index.purpose not in ("", "supports a foreign key"):
                continue
            longer = [each for each in table if each.name not in redundant and _begins_with(each, index)]
            if longer:
                narrowest = min(longer, key=lambda each: each.row["bytes"])
                findings.append(_redundant(index, narrowest, "is the beginning of"))
                redundant.add(index.name)
    wasted = sum(index.row["bytes"] for group in same.values() for index in group if index.name in redundant)
    findings.sort(key=lambda finding: -int(finding.facts["bytes"]))
    return judged(DUPLICATE, Severity.P3, findings[:MOST], redundant=len(findings), redundant_bytes=wasted)


def _worth(index: Index) -> tuple[Any, ...]:
    """The one to be kept first: what other things rest on, then what is used."""
    row = index.row
    return (
        not row["is_primary"],
        not row["is_constraint"],
        not row["is_replica_identity"],
        not row["is_unique"],
        -row["scans"],
        row["oid"],
    )


def _needed(index: Index, kept: Index) -> bool:
    """Whether an index is more than its twin."""
    row = index.row
    return bool(row["is_constraint"] or row["is_replica_identity"] or (row["is_unique"] and not kept.row["is_unique"]))


def _begins_with(longer: Index, index: Index) -> bool:
    """Whether every scan of ``index`` could use ``longer`` as well."""
    a, b = longer.row, index.row
    return bool(
        a["oid"] != b["oid"]
        and a["method"] == b["method"] == "btree"
        and not b["included"]
        and not a["has_expressions"]
        and not b["has_expressions"]
        and a["predicate"] == b["predicate"]
        and len(a["keys"]) > len(b["keys"])
        and a["keys"][: len(b["keys"])] == b["keys"]
    )


def _redundant(index: Index, kept: Index, how: str) -> Finding:
    row = index.row
    return Finding(
        check=DUPLICATE,
        object=index.name,
        severity=Severity.P4,
        summary=f"{size(row['bytes'])} {index.what} on {index.table} {how} {kept.name} {kept.what}",
        hint=f"the other serves the same queries: drop index concurrently {_quoted(row['schema'], row['name'])};",
        facts={"bytes": row["bytes"], "scans": row["scans"], "kept": kept.name, "kept_scans": kept.row["scans"]},
    )


# -- invalid -------------------------------------------------------------------------------------------


def _invalid(indexes: Iterable[Index]) -> Outcome:
    """What an interrupted CREATE or REINDEX … CONCURRENTLY leaves: kept up to date, never read."""
    invalid = [index for index in indexes if not index.row["is_valid"] and not index.row["building"]]
    return judged(INVALID, Severity.P3, [_broken(index) for index in invalid], invalid=len(invalid))


def _broken(index: Index) -> Finding:
    row = index.row
    name = _quoted(row["schema"], row["name"])
    severity = Severity.P3
    if row["name"].rstrip("0123456789").endswith(("_ccnew", "_ccold")):
        hint = f"left by an interrupted REINDEX CONCURRENTLY; monthly maintenance does: drop index concurrently {name};"
    elif row["is_constraint"] or row["is_unique"]:
        severity = Severity.P2
        hint = f"it does not keep duplicates out: reindex index concurrently {name};"
    else:
        hint = f"build it anew (reindex index concurrently {name};) or drop it."
    return Finding(
        check=INVALID,
        object=index.name,
        severity=severity,
        summary=f"{index.what} on {index.table} is invalid: writes keep it up to date, no query uses it",
        hint=hint,
        facts={"bytes": row["bytes"], "table": index.table},
    )


def _quoted(schema: str, name: str) -> str:
    return sql.Identifier(schema, name).as_string()
