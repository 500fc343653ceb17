"""What the database did since the last look: cache hits, deadlocks, temporary files, checkpoints, WAL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from upkeep.findings import Finding, Outcome, Severity, judged
from upkeep.postgres.advice.look import Look, iso
from upkeep.postgres.advice.memory import began_anew, grown, per_day
from upkeep.postgres.advice.statements import since as since_said
from upkeep.report.wording import counted, number, size, span

CACHE = "postgres_cache_hits"
DEADLOCKS = "postgres_deadlocks"
TEMPORARY = "postgres_temporary_files"
CHECKSUMS = "postgres_checksum_failures"
CHECKPOINTS = "postgres_checkpoints"

DATABASE_KIND = "database"
CHECKPOINTS_KIND = "checkpoints"

LEAST_BLOCKS = 100_000
"""Blocks asked for (780 MiB): with fewer the ratio says nothing about the cache."""

LEAST_HITS = 0.9
"""PgHero warns below 99 %, which a database larger than its cache never reaches."""

DEADLOCKS_A_DAY = 10
"""From here on it is a design that collides, and no accident."""

TEMPORARY_A_DAY = 10 * 1024**3
"""Bytes written to disk for sorts and hashes that had no room in work_mem."""

LEAST_CHECKPOINTS = 5
REQUESTED_SHARE = 0.5
"""Checkpoints that WAL forced, of all: beyond half max_wal_size is too small."""


@dataclass(frozen=True)
class Span:
    """How counters grew, and over which time."""

    values: Mapping[str, float | None]
    since: datetime | None
    was_reset: bool

    def __getitem__(self, name: str) -> float:
        return self.values.get(name) or 0.0


def report(look: Look) -> list[Outcome]:
    """Everything that the counters of the database and of the server tell about the time since the last look."""
    row = look.ask_one("database")
    database = _span(look, DATABASE_KIND, row)
    newer = look.connection.info.server_version >= 170000
    checkpoints = _span(look, CHECKPOINTS_KIND, look.ask_one("checkpoints" if newer else "checkpoints_16"))
    return [
        _cache(look, database, row["database"]),
        _deadlocks(look, database),
        _temporary(look, database),
        _checksums(row),
        _checkpoints(look, checkpoints, database),
    ]


NOT_COUNTERS = ("since", "database", "max_wal_bytes")


def _span(look: Look, kind: str, row: Mapping[str, Any]) -> Span:
    counters = {name: value for name, value in row.items() if name not in NOT_COUNTERS}
    before = look.earlier.get(kind)
    old: Mapping[str, Any] | None = before.content if before else None
    look.counted[kind] = {**counters, "since": iso(row["since"])}
    was_reset = old is not None and (old.get("since") != iso(row["since"]) or began_anew(counters, _numbers(old)))
    # WAL is no statistic: it goes on through a reset.
    whole = grown(counters, None if old is None or was_reset else _numbers(old))
    if old is not None and was_reset and "wal_bytes" in counters:
        whole |= grown({"wal_bytes": counters["wal_bytes"]}, _numbers({"wal_bytes": old.get("wal_bytes")}))
    if old is None and "wal_bytes" in whole:
        whole["wal_bytes"] = None
    since = row["since"] if old is None or was_reset else before.at if before else None
    return Span(
        {**whole, **({"max_wal_bytes": row["max_wal_bytes"]} if "max_wal_bytes" in row else {})}, since, was_reset
    )


def _numbers(old: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: value for name, value in old.items() if name not in NOT_COUNTERS}


def hit_ratio(database: Span) -> tuple[float | None, dict[str, Any]]:
    """Share of the blocks that were found in shared buffers; None when none was asked for, as after a reset."""
    touched = database["blocks_hit"] + database["blocks_read"]
    ratio = database["blocks_hit"] / touched if touched else None
    return ratio, {
        "hit_ratio": round(ratio, 6) if ratio is not None else "no data",
        "blocks": int(touched),
        "commits": int(database["commits"]),
        "rollbacks": int(database["rollbacks"]),
        "since": iso(database.since),
        "statistics_reset_meanwhile": database.was_reset,
    }


def _cache(look: Look, database: Span, name: str) -> Outcome:
    ratio, facts = hit_ratio(database)
    findings = []
    if ratio is not None:
        look.measured["postgres_hit_ratio", name] = round(ratio, 6)
    if ratio is not None and facts["blocks"] >= LEAST_BLOCKS and ratio < LEAST_HITS:
        findings.append(
            Finding(
                check=CACHE,
                severity=Severity.P4,
                summary=f"{ratio:.1%} of {number(facts['blocks'])} blocks were cached {since_said(database.since)}",
                hint="see which statements read most blocks (the table of slow queries), and whether shared_buffers is"
                " far below the part of the data that is in use.",
                facts=facts,
            )
        )
    return judged(CACHE, Severity.P4, findings, **facts)


def _deadlocks(look: Look, database: Span) -> Outcome:
    found = database["deadlocks"]
    rate = per_day(found, database.since, look.now)
    facts: dict[str, Any] = {"deadlocks": int(found), "per_day": round(rate, 2) if rate is not None else None}
    findings = []
    if found:
        findings.append(
            Finding(
                check=DEADLOCKS,
                severity=Severity.P3 if rate is not None and rate >= DEADLOCKS_A_DAY else Severity.P4,
                summary=f"{counted(int(found), 'deadlock')} {since_said(database.since)}; each ended a transaction",
                hint="the server's log has both statements of each; lock rows in one order, or retry on 40P01.",
                facts=facts,
            )
        )
    return judged(DEADLOCKS, Severity.P4, findings, since=iso(database.since), **facts)


def _temporary(look: Look, database: Span) -> Outcome:
    written = database["temp_bytes"]
    rate = per_day(written, database.since, look.now)
    facts: dict[str, Any] = {
        "temp_files": int(database["temp_files"]),
        "temp_bytes": int(written),
        "bytes_per_day": round(rate) if rate is not None else None,
    }
    findings = []
    if rate is not None and rate >= TEMPORARY_A_DAY:
        findings.append(
            Finding(
                check=TEMPORARY,
                severity=Severity.P4,
                summary=f"{size(rate)} of temporary files a day {since_said(database.since)}",
                hint="the table of slow queries names their statements; give those roles work_mem.",
                facts=facts,
            )
        )
    return judged(TEMPORARY, Severity.P4, findings, since=iso(database.since), **facts)


def _checksums(row: Mapping[str, Any]) -> Outcome:
    """Never since the last look only: a page that was broken once is broken until somebody has seen to it."""
    failures = row["checksum_failures"]
    findings = []
    if failures:
        findings.append(
            Finding(
                check=CHECKSUMS,
                severity=Severity.P0,
                summary=f"{number(failures)} pages were read whose checksum is wrong: the disk lost or changed data",
                hint="stop writing to it; find the pages in the server's log, restore them from a verified backup, and"
                " replace the disk. `pg_stat_reset()` ends this finding once it is done.",
            )
        )
    return judged(CHECKSUMS, Severity.P2, findings, failures="checksums are off" if failures is None else int(failures))


def _checkpoints(look: Look, checkpoints: Span, database: Span) -> Outcome:
    timed, requested = checkpoints["timed"], checkpoints["requested"]
    every = (look.now - checkpoints.since) / (timed + requested) if checkpoints.since and timed + requested else None
    wal_rate = (
        per_day(database["wal_bytes"], look.earlier[DATABASE_KIND].at, look.now)
        if DATABASE_KIND in look.earlier
        else None
    )
    facts: dict[str, Any] = {
        "timed": int(timed),
        "requested": int(requested),
        "every_s": round(every.total_seconds()) if every else None,
        "write_s": round(checkpoints["write_ms"] / 1000, 1),
        "wal_bytes": int(database["wal_bytes"]) if database.values.get("wal_bytes") is not None else None,
        "wal_bytes_per_day": round(wal_rate) if wal_rate is not None else None,
        "since": iso(checkpoints.since),
    }
    findings = []
    total = timed + requested
    if total >= LEAST_CHECKPOINTS and requested / total >= REQUESTED_SHARE and every and every < timedelta(minutes=5):
        findings.append(
            Finding(
                check=CHECKPOINTS,
                severity=Severity.P4,
                summary=f"{requested / total:.0%} of {number(total)} checkpoints {since_said(checkpoints.since)} were"
                f" forced before their time, one every {span(every.total_seconds())}",
                hint=f"raise max_wal_size ({size(checkpoints['max_wal_bytes'])} now): each checkpoint makes every page"
                " be written whole again at its next change.",
                facts=facts,
            )
        )
    return judged(CHECKPOINTS, Severity.P4, findings, **facts)
