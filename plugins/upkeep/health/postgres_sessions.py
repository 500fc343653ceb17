"""What the sessions of a PostgreSQL server are doing: how many, how long, and who waits for whom."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from upkeep.findings import Finding, Outcome, Severity, judged
from upkeep.health.postgres_server import Ask, span
from upkeep.platforms.services import Postgres

BLOCKED_S = 2.0
"""Waiting for a lock up to this long is everyday life: the server itself looks for deadlocks only after 1 s."""

LONG_BLOCKED_S = 60.0
"""Somebody who waits longer than this has users who wait with him: one step worse."""


def connections(settings: Postgres, ask: Ask) -> Outcome:
    """Share of the connections in use, by state and application."""
    rows = ask("connections")
    used, most = sum(row["sessions"] for row in rows), rows[0]["most"]
    share = used / most if most > 0 else 1.0
    by_state = _sums(rows, "state")
    by_application = _sums(rows, "application")
    facts = {
        "used": used,
        "most": most,
        "share": round(share, 4),
        "by_state": by_state,
        "by_application": dict(list(by_application.items())[:10]),
    }
    findings = []
    if severity := settings.connections.severity(share):
        states = ", ".join(f"{count} {state}" for state, count in by_state.items())
        application, count = next(iter(by_application.items()))
        findings.append(
            Finding(
                check="postgres_connections",
                severity=severity,
                summary=f"{used} of {most} connections in use ({share:.0%}): {states}; most by {application} ({count})",
                hint="end idle sessions of whoever leaks them, or put a pooler in front; a higher limit costs memory.",
                facts=facts,
            )
        )
    return judged("postgres_connections", settings.connections.critical_severity, findings, **facts)


def long_queries(settings: Postgres, ask: Ask) -> Outcome:
    """Statements that run longer than ``long_query``, one finding per application."""
    limit_s = settings.long_query.total_seconds()
    rows = ask("long_queries", seconds=limit_s)
    findings = []
    for application, theirs in _by_application(rows).items():
        longest = theirs[0]
        findings.append(
            Finding(
                check="postgres_long_queries",
                object=application,
                severity=_worse_if_awaited(settings, theirs),
                summary=f"{_count(len(theirs), 'statement')} of {application} longer than {span(limit_s)}; the longest "
                f"has run {span(longest['seconds'])} (pid {longest['pid']}){_awaited(theirs)}",
                hint="see whether it still gets anywhere; `select pg_cancel_backend(pid)` ends a statement gently.",
                facts={"sessions": [_session(row, "wait") for row in theirs[:10]]},
            )
        )
    return judged("postgres_long_queries", settings.activity_severity, findings, statements=len(rows))


def idle_in_transaction(settings: Postgres, ask: Ask) -> Outcome:
    """Sessions idle inside a transaction for longer than allowed, one finding per application."""
    limit_s = settings.idle_in_transaction.total_seconds()
    rows = ask("idle_in_transaction", seconds=limit_s)
    findings = []
    for application, theirs in _by_application(rows).items():
        longest = theirs[0]
        findings.append(
            Finding(
                check="postgres_idle_in_transaction",
                object=application,
                severity=_worse_if_awaited(settings, theirs),
                summary=f"{_count(len(theirs), 'session')} of {application} idle in a transaction for more than "
                f"{span(limit_s)}; the longest {span(longest['seconds'])} (pid {longest['pid']}){_awaited(theirs)}",
                hint="it holds its locks and keeps VACUUM from its work: find the code that forgets to commit, "
                "`select pg_terminate_backend(pid)`, and set idle_in_transaction_session_timeout.",
                facts={"sessions": [_session(row, "state", "transaction_s", "xmin_age") for row in theirs[:10]]},
            )
        )
    return judged("postgres_idle_in_transaction", settings.activity_severity, findings, sessions=len(rows))


def blocked(settings: Postgres, ask: Ask) -> Outcome:
    """Who makes others wait for locks: one finding per application at the root of a tree of waiting sessions."""
    edges = ask("blocked")
    waiting = {edge["pid"] for edge in edges}
    followers: dict[int, set[int]] = defaultdict(set)
    for edge in edges:
        followers[edge["blocker"]].add(edge["pid"])
    waited = {edge["pid"]: float(edge["waited_s"]) for edge in edges}
    roots = {edge["blocker"]: edge for edge in edges if edge["blocker"] not in waiting}
    by_application: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for pid, edge in roots.items():
        below, depth = tree(pid, followers)
        longest_wait_s = round(max(waited[follower] for follower in below), 1)
        if longest_wait_s < BLOCKED_S:
            continue
        by_application[_name(edge)].append(
            {
                **_session(edge, "state", "transaction_s"),
                "pid": pid,
                "waiters": len(below),
                "depth": depth,
                "longest_wait_s": longest_wait_s,
            }
        )
    findings = []
    for application, theirs in by_application.items():
        severity = settings.activity_severity
        theirs.sort(key=lambda root: -root["waiters"])
        worst = theirs[0]
        longest_s = max(root["longest_wait_s"] for root in theirs)
        since = f" for {span(worst['transaction_s'])}" if worst["transaction_s"] is not None else ""
        if longest_s >= LONG_BLOCKED_S:
            severity = one_worse(severity)
        findings.append(
            Finding(
                check="postgres_blocked",
                object=application,
                severity=severity,
                summary=f"{application} (pid {worst['pid']}, {worst['state']}{since}) makes "
                f"{_count(worst['waiters'], 'session')} wait for its locks, {worst['depth']} deep, "
                f"the longest {span(longest_s)}",
                hint="end the root and the whole tree goes on: `select pg_terminate_backend(pid)`; for pid 0 look into "
                "pg_prepared_xacts.",
                facts={"roots": theirs[:10]},
            )
        )
    return judged("postgres_blocked", settings.activity_severity, findings, waiting=len(waiting))


def tree(root: int, followers: Mapping[int, Iterable[int]]) -> tuple[set[int], int]:
    """Everybody who waits below ``root``, and how many steps the last of them is away; cycles are walked once."""
    seen: set[int] = set()
    level, depth = {root}, 0
    while level := {pid for above in level for pid in followers.get(above, ())} - seen - {root}:
        seen |= level
        depth += 1
    return seen, depth


def one_worse(severity: Severity) -> Severity:
    """The next worse severity; nothing is worse than P0."""
    return Severity(f"P{max(0, severity.rank - 1)}")


_COMMENT = re.compile(r"/\*.*?(\*/|$)|--[^\n]*", re.S)
_LITERAL = re.compile(r"\$(\w*)\$.*?(\$\1\$|$)|[eEbBxXnN]?'(?:[^']|'')*('|$)|\b\d[\d.eE]*\b", re.S)


def shape(query: str) -> str:
    """A statement without its comments and values, which may be anybody's secret; at most 160 characters."""
    return " ".join(_LITERAL.sub("?", _COMMENT.sub(" ", query)).split())[:160]


def _sums(rows: list[dict[str, Any]], key: str) -> dict[str, int]:
    sums: dict[str, int] = defaultdict(int)
    for row in rows:
        sums[row[key]] += row["sessions"]
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def _by_application(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows by who they belong to; a pid would be another finding each time."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[_name(row)].append(row)
    return found


def _name(row: Mapping[str, Any]) -> str:
    name = row["application"] if row["application"] != "-" else row["username"]
    return str(name)


def _session(row: Mapping[str, Any], *more: str) -> dict[str, Any]:
    seconds = {key: round(row[key], 1) for key in ("seconds",) if row.get(key) is not None}
    extra = {key: round(row[key], 1) if isinstance(row[key], float) else row[key] for key in more}
    return {"pid": row["pid"], "user": row["username"], **seconds, **extra, "query": shape(row["query"] or "")}


def _worse_if_awaited(settings: Postgres, rows: list[dict[str, Any]]) -> Severity:
    awaited = any(row["waiters"] for row in rows)
    return one_worse(settings.activity_severity) if awaited else settings.activity_severity


def _awaited(rows: list[dict[str, Any]]) -> str:
    waiters = sum(row["waiters"] for row in rows)
    return f"; waiting for it: {_count(waiters, 'session')}" if waiters else ""


def _count(number: int, word: str) -> str:
    return f"1 {word}" if number == 1 else f"{number} {word}s"
