"""What is said about chosen tables, and about tables that were cared for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from upkeep.findings import Finding, Outcome, Severity, judged, ok
from upkeep.postgres.needs import Need

NEED = "postgres_vacuum_need"
RIGHTS = "postgres_vacuum_rights"
SNAPSHOT = "postgres_old_snapshot"
VACUUM = "postgres_vacuum"


def chosen(needs: Sequence[Need], grant: str, told_before: Sequence[str]) -> list[Outcome]:
    """
    What choosing found out.

    :param grant: the SQL that gives this role the rights it lacks; only said when it lacks any.
    :param told_before: tables with an open finding of an earlier run. Those in no need today have been repaired.
    """
    forbidden = [need for need in needs if not need.allowed]
    arms: dict[str, Any] = {arm: sum(need.arm == arm for need in needs) for arm in ("freeze", "vacuum", "analyze")}
    worst = {need.table: need.score for need in sorted(needs, key=lambda need: -need.score)[:5]}
    held_by = next((need.held_by for need in needs if need.held_by), "")
    rights, snapshot = [], []
    if forbidden:
        names = ", ".join(need.table for need in forbidden[:5]) + (" …" if len(forbidden) > 5 else "")
        rights.append(
            Finding(
                check=RIGHTS,
                # One table must not keep the others from being cared for; all of them make the task pointless.
                severity=Severity.P2 if len(forbidden) == len(needs) else Severity.P3,
                summary=f"{len(forbidden)} of {len(needs)} tables in need may not be maintained by this role: {names}",
                hint=f"as a superuser: {grant}",
                facts={"tables": [need.table for need in forbidden[:100]]},
            )
        )
    if held_by:
        snapshot.append(
            Finding(
                check=SNAPSHOT,
                severity=Severity.P3,
                summary=f"dead rows may stay after VACUUM: {held_by}",
                hint="end that transaction, or drop the slot if nothing reads it; the tables bloat until then.",
            )
        )
    repaired = sorted(set(told_before) - {need.table for need in needs})
    return [
        ok(NEED, Severity.P2, tables=len(needs), **arms, worst=worst),
        judged(RIGHTS, Severity.P2, rights),
        judged(SNAPSHOT, Severity.P3, snapshot),
        *(ok(VACUUM, Severity.P2, object=table) for table in repaired),
    ]


def cared(table: str, result: Mapping[str, Any]) -> Outcome:
    """The outcome of ``vacuum.care``."""
    finding = _finding(table, result)
    facts = {key: value for key, value in result.items() if key not in ("before", "after")}
    facts |= {f"{key}_before": value for key, value in result.get("before", {}).items()}
    facts |= {f"{key}_after": value for key, value in result.get("after", {}).items()}
    return judged(VACUUM, Severity.P2, [finding] if finding else [], object=table, **facts)


def _finding(table: str, result: Mapping[str, Any]) -> Finding | None:
    state, reason = result["state"], result["reason"]
    hint, severity = "", Severity.P3
    if state == "locked":
        summary = f"skipped: {reason}"
        hint = "the next run takes it; if that session is idle in a transaction, end it."
    elif state == "refused":
        summary, severity = reason, Severity.P2
        hint = f"as a superuser: {result['grant']}"
    elif state == "cancelled":
        summary = f"given up: {reason}"
        hint = "raise `postgres.vacuum.statement_timeout` or `cost_limit`, or widen the window."
    elif state == "unconfirmed":
        summary = f"nobody knows whether it was done: {reason}"
        hint = "look at pg_stat_all_tables, and at the server's log of that minute; `track_counts` should be on."
    elif state == "in vain":
        summary = f"not vacuumed: {reason}"
        hint = "end that transaction, or drop the slot if nothing reads it; the table bloats until then."
    elif state == "stopped":
        summary, severity = f"not begun: {reason}", Severity.P4
        hint = "it is among the neediest tables of the next run."
    elif state == "done" and result["in_vain"] and result["arm"] == "freeze":
        left, severity = result["after"]["transactions_unfrozen"], Severity.P1 if result["failsafe"] else Severity.P2
        summary = f"freezing left {left:,} transactions unfrozen: {result['held_by'] or 'no old snapshot in sight'}"
        hint = "end that transaction, or drop the slot if nothing reads it: this is the way to wraparound."
    elif state == "done" and result["in_vain"]:
        before, after = result["before"]["dead_rows"], result["after"]["dead_rows"]
        summary = f"VACUUM left {after:,} of {before:,} dead rows: {result['held_by'] or 'no old snapshot in sight'}"
        hint = "end that transaction, or drop the slot if nothing reads it; until then VACUUM removes nothing newer."
    else:
        return None
    facts = {key: result[key] for key in ("arm", "state", "seconds", "held_by") if key in result}
    return Finding(check=VACUUM, object=table, severity=severity, summary=summary, hint=hint, facts=facts)
