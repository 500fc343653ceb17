"""Slow statements: what each has cost since the last look, and which have become slower."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from upkeep.findings import Finding, Outcome, Severity, judged, unknown
from upkeep.postgres.advice.look import Look, day, iso
from upkeep.postgres.advice.memory import grown
from upkeep.postgres.advice.text import without_literals
from upkeep.report.wording import number, span

SLOW = "postgres_slow_queries"
SLOWER = "postgres_query_regression"
SEVERITY = Severity.P4

KIND = "statements"

COUNTERS = (
    "calls", "rows", "exec_ms", "plan_ms", "blocks_hit", "blocks_read", "blocks_dirtied", "temp_blocks", "read_ms",
    "wal_bytes",
)  # fmt: skip

SLOWER_FROM = 2.0
"""Times its earlier mean; below that it is weather."""

SLOWER_SHARE = 0.1
"""Of ``advice.slow_query``: a mean below that is no trouble however much it grew."""


@dataclass(frozen=True)
class Statement:
    """One statement of the application, over the time since the last look."""

    queryid: str
    calls: float
    counters: Mapping[str, float]

    @property
    def mean_ms(self) -> float:
        return self.counters["exec_ms"] / self.calls

    @property
    def hit_share(self) -> float | None:
        touched = self.counters["blocks_hit"] + self.counters["blocks_read"]
        return self.counters["blocks_hit"] / touched if touched else None


@dataclass(frozen=True)
class Statements:
    """What was counted."""

    since: datetime | None
    """From when on; None when nobody knows."""

    statements: tuple[Statement, ...]
    """Called at least once since."""

    earlier_means: Mapping[str, tuple[float, float]]
    """Of the time before: mean in milliseconds and calls, by query id."""

    forgotten: float | None
    """Statements that the server had no room for, since its statistics began."""


def why_not(look: Look) -> tuple[str, str]:
    """
    Why statements cannot be read, and the cure; empty when they can.

    Leads the session's search path to the extension, wherever it was put.
    """
    state = look.ask_one("statements_available")
    if state["version"] is None:
        if not state["available"]:
            return "the server does not have pg_stat_statements", "install its contrib package (postgresql-contrib)."
        return "pg_stat_statements is not in this database", "as a superuser: create extension pg_stat_statements;"
    if not state["may_read"]:
        role = sql.Identifier(state["me"]).as_string(look.connection)
        return "other roles' statements are hidden from this one", f"as a superuser: grant pg_read_all_stats to {role};"
    look.connection.execute(
        "select set_config('search_path', 'pg_catalog, ' || quote_ident(%s), false)", [state["schema"]]
    )
    try:
        look.connection.execute("select from pg_stat_statements(false) limit 1")
    except psycopg.errors.ObjectNotInPrerequisiteState:
        return (
            "pg_stat_statements is installed but not preloaded, so it counts nothing",
            "add it to shared_preload_libraries and restart the server.",
        )
    if not state["asks_ids"]:
        return "compute_query_id is off, so statements are not told apart", "set it to auto (its default) and reload."
    return "", ""


def count(look: Look) -> Statements:
    """What each statement has cost since the last look, and the counters for the next one."""
    # An extension may be older than its server, until somebody updates it.
    newer = look.ask_one("statements_available")["version"] not in ("1.7", "1.8")
    info = look.ask_one("statements_reset") if newer else {}
    reset = info.get("since")
    before = look.earlier.get(KIND)
    old: Mapping[str, Any] = before.content if before else {}
    # A reset in between, or statistics of another server after a failover.
    same = bool(before) and old.get("reset") == iso(reset)
    known = old.get("counters", {}) if same else {}
    sums: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(COUNTERS, 0.0))
    counters = {}
    for row in look.ask("statements"):
        now = {name: row[name] for name in COUNTERS}
        counters[row["key"]] = list(now.values())
        was = known.get(row["key"])
        if was is not None and before and row["stats_since"] and row["stats_since"] > before.at:
            # Forgotten and met again.
            was = None
        for name, grew in grown(now, dict(zip(COUNTERS, was, strict=True)) if was else None).items():
            sums[row["queryid"]][name] += grew or 0.0
    statements = tuple(
        Statement(queryid, total["calls"], total) for queryid, total in sums.items() if total["calls"] > 0
    )
    # One that was not called this time is compared with the time it was.
    means = {queryid: mean for queryid, mean in old.get("means", {}).items() if queryid in sums}
    means |= {each.queryid: [round(each.mean_ms, 4), each.calls] for each in statements}
    look.counted[KIND] = {"reset": iso(reset), "counters": counters, "means": means}
    return Statements(
        since=before.at if same and before else reset,
        statements=statements,
        earlier_means={queryid: (mean, calls) for queryid, (mean, calls) in old.get("means", {}).items()},
        forgotten=info.get("forgotten"),
    )


def report(look: Look) -> list[Outcome]:
    """The statements that cost the most time, those that are slow each time, and those that became slower."""
    reason, cure = why_not(look)
    if reason:
        said = f"{reason}; {cure}"
        return [
            unknown(SLOW, Severity.P3, said, cure=cure),
            unknown(SLOWER, Severity.P3, said, explained_by=SLOW),
        ]
    counted = count(look)
    settings = look.settings.advice
    total_ms = sum(each.counters["exec_ms"] for each in counted.statements)
    by_time = sorted(counted.statements, key=lambda each: -each.counters["exec_ms"])
    enough = [each for each in by_time if each.calls >= settings.least_calls]
    slow_ms = settings.slow_query.total_seconds() * 1000
    slow = [each for each in enough if each.mean_ms >= slow_ms][: settings.top]
    slower = [each for each in enough if _slower(each, counted, slow_ms, settings.least_calls)][: settings.top]
    top = by_time[: settings.top]
    texts = _texts(look, {each.queryid for each in (*top, *slow, *slower)})
    said_since = since(counted.since)
    facts: dict[str, Any] = {
        "since": iso(counted.since),
        "statements": len(counted.statements),
        "total_seconds": round(total_ms / 1000, 3),
        "forgotten": counted.forgotten,
        "by_total_time": [_row(each, total_ms, texts) for each in top],
    }
    return [
        judged(SLOW, Severity.P3, [_slow(each, total_ms, texts, said_since) for each in slow], **facts),
        judged(
            SLOWER,
            Severity.P3,
            [_became_slower(each, counted, texts) for each in slower],
            compared=sum(each.queryid in counted.earlier_means for each in enough),
        ),
    ]


def since(at: datetime | None) -> str:
    return f"since {day(at)}" if at else "since the statistics began"


def _slower(each: Statement, counted: Statements, slow_ms: float, least_calls: int) -> bool:
    mean, calls = counted.earlier_means.get(each.queryid, (0.0, 0.0))
    if mean <= 0 or calls < least_calls or each.mean_ms < SLOWER_SHARE * slow_ms:
        return False
    return each.mean_ms >= SLOWER_FROM * mean


def _texts(look: Look, queryids: Iterable[str]) -> dict[str, str]:
    rows = look.ask("statement_texts", queryids=sorted(queryids))
    return {row["queryid"]: without_literals(row["text"]) for row in rows}


def _row(each: Statement, total_ms: float, texts: Mapping[str, str]) -> dict[str, Any]:
    """One line of the table."""
    counters = each.counters
    return {
        "statement": shortened(texts.get(each.queryid, "(forgotten meanwhile)")),
        "time_share": round(counters["exec_ms"] / total_ms, 4) if total_ms else None,
        "total_s": round(counters["exec_ms"] / 1000, 3),
        "calls": int(each.calls),
        "mean_s": round(each.mean_ms / 1000, 6),
        "rows_per_call": round(counters["rows"] / each.calls, 1),
        "hit_share": round(each.hit_share, 4) if each.hit_share is not None else None,
        "blocks_per_call": round((counters["blocks_hit"] + counters["blocks_read"]) / each.calls, 1),
        "temp_blocks": int(counters["temp_blocks"]),
        "wal_bytes": int(counters["wal_bytes"]),
    }


def shortened(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _slow(each: Statement, total_ms: float, texts: Mapping[str, str], said_since: str) -> Finding:
    share = each.counters["exec_ms"] / total_ms
    reads = each.counters["blocks_read"] / each.calls
    if each.counters["temp_blocks"] >= each.calls:
        hint = "it sorts or hashes on disk: look at its plan, then at an index in that order or at work_mem."
    elif reads >= 1000:
        hint = f"it reads {number(reads)} blocks from disk per call: look at its plan for what a narrower index saves."
    else:
        hint = "look at its plan: explain (analyze, buffers) with typical parameters, on a copy if it writes."
    return Finding(
        check=SLOW,
        object=f"query {each.queryid}",
        severity=SEVERITY,
        summary=f"takes {span(each.mean_ms / 1000)} on average, {number(each.calls)} calls and {share:.0%} of all time"
        f" {said_since}: {texts.get(each.queryid, '(text forgotten)')}",
        hint=hint,
        facts=_row(each, total_ms, {}) | {"statement": texts.get(each.queryid, "")},
    )


def _became_slower(each: Statement, counted: Statements, texts: Mapping[str, str]) -> Finding:
    mean, calls = counted.earlier_means[each.queryid]
    return Finding(
        check=SLOWER,
        object=f"query {each.queryid}",
        severity=SEVERITY,
        summary=f"takes {span(each.mean_ms / 1000)} on average {since(counted.since)}, {each.mean_ms / mean:.1f} times"
        f" the {span(mean / 1000)} before: {texts.get(each.queryid, '(text forgotten)')}",
        hint="compare its plan with the one before: more rows, stale statistics, an index that is gone, a deploy?",
        facts={
            "mean_s": round(each.mean_ms / 1000, 6),
            "mean_s_before": round(mean / 1000, 6),
            "calls": int(each.calls),
            "calls_before": int(calls),
        },
    )
