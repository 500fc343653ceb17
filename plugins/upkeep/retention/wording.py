"""What is said about a retention plan, and about what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from upkeep.findings import Finding, Outcome, Severity, judged
from upkeep.retention.items import Item
from upkeep.retention.work import Result

PLAN, DELETE = "retention_plan", "retention_delete"
SEVERITY = Severity.P2
"""Rows that are kept too long are a matter of law; rows that are deleted too early never come back."""


def planned(items: Sequence[Item], digest: str, *, approved: bool) -> list[Outcome]:
    """One outcome per rule of the platform file."""
    return [
        judged(
            PLAN,
            SEVERITY,
            _merged(rule, list(_about([item for item in items if item.rule == rule], digest, approved))),
            object=rule,
            plan=digest,
            **_sums([item for item in items if item.rule == rule]),
        )
        for rule in dict.fromkeys(item.rule for item in items)
    ]


def _merged(rule: str, said: list[Finding]) -> list[Finding]:
    """One finding per rule: its key is the check and the table."""
    if len(said) < 2:
        return said
    worst = min(said, key=lambda finding: finding.severity.rank)
    return [
        Finding(
            check=PLAN,
            object=rule,
            severity=worst.severity,
            summary="; ".join(dict.fromkeys(finding.summary for finding in said)),
            hint=" ".join(dict.fromkeys(finding.hint for finding in said)),
            facts=worst.facts,
        )
    ]


def _sums(items: Sequence[Item]) -> dict[str, Any]:
    numbers = ("due", "rows", "held", "referenced", "without_key", "bytes")
    return {
        **{name: sum(getattr(item, name) for item in items) for name in numbers},
        "cut_off": items[0].cut_off,
        "oldest": min((item.oldest for item in items if item.oldest), default=None),
        "newest": max((item.newest for item in items if item.newest), default=None),
        "dropped_partitions": sum(item.act == "drop" for item in items),
        "notes": sorted({note for item in items for note in item.notes}),
    }


def _about(items: Sequence[Item], digest: str, approved: bool) -> Iterator[Finding]:
    rule = items[0].rule
    for item in items:
        if item.refused:
            yield _finding(rule, SEVERITY, f"{item.table}: nothing can be deleted: {item.refused}", item.hint)
    if items[0].beyond and not approved:
        yield _finding(
            rule,
            SEVERITY,
            f"nothing is deleted: {items[0].beyond}, which is beyond the standing yes",
            f"look at the plan; if it is right, trigger this Dag with `approve_plan` = {digest} within a week;"
            " or raise `postgres.deletion.most_share` or `most_times_usual`.",
            **_sums(items),
        )
    references = {(ref.constraint, ref.table): ref for item in items for ref in item.references}.values()
    for ref in references:
        columns = ", ".join(ref.columns)
        if not ref.indexed:
            yield _finding(
                rule,
                Severity.P3,
                f"foreign key {ref.constraint} of {ref.table} has no index: each deleted row reads all of {ref.table}",
                f"as its owner: create index concurrently on {ref.table} ({columns});",
            )
        if ref.on_delete in "cnd":
            does = {"c": "delete", "n": "empty", "d": "reset"}[ref.on_delete]
            yield _finding(
                rule,
                Severity.P3,
                f"foreign key {ref.constraint} would {does} rows of {ref.table}, for which there is no yes:"
                " rows it refers to are kept",
                f"give {ref.table} a rule of its own, or let the application remove those rows.",
            )


def _finding(rule: str, severity: Severity, summary: str, hint: str, **facts: Any) -> Finding:
    return Finding(check=PLAN, object=rule, severity=severity, summary=summary, hint=hint, facts=facts)


def carried_out(item: Item, result: Result, stays: Mapping[str, Any]) -> Outcome:
    """
    What became of one item.

    :param stays: of ``plan.stays``; empty when nobody looked.
    """
    left = int(stays.get("due") or 0)
    facts = {**vars(result), "held": stays.get("held"), "referenced": stays.get("referenced"), "left": left}
    found = []
    if result.state == "failed":
        slow = "rows at a time" in result.reason
        found.append(
            Finding(
                check=DELETE,
                object=item.table,
                severity=SEVERITY,
                summary=f"given up after {result.deleted:,} of {item.due:,} rows: {result.reason}",
                hint="look for foreign keys without an index and for slow triggers; the next run goes on from here."
                if slow
                else "repair that, then clear the task; it goes on from here, and what is deleted stays on record.",
                facts=facts,
            )
        )
    elif result.state == "stopped":
        found.append(
            Finding(
                check=DELETE,
                object=item.table,
                severity=Severity.P4,
                summary=f"stopped after {result.deleted:,} of {item.due:,} rows: {result.reason}",
                hint="clear the task to go on at once; the next run begins with what is left.",
                facts=facts,
            )
        )
    elif left:
        found.append(
            Finding(
                check=DELETE,
                object=item.table,
                severity=Severity.P3,
                summary=f"{left:,} expired rows could not be had: others hold locks on them, or changed them meanwhile",
                hint="look for sessions that are idle in a transaction; the next run takes those rows.",
                facts=facts,
            )
        )
    return judged(DELETE, SEVERITY, found, object=item.table, **facts)
