"""What is said about chosen indexes, about rebuilds, and about what interrupted ones left behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from upkeep.findings import Finding, Outcome, Severity, judged, ok, unknown
from upkeep.postgres.reindex.choose import Choice
from upkeep.postgres.reindex.leftovers import Leftover
from upkeep.report.wording import size

NEED = "postgres_reindex_need"
RIGHTS = "postgres_reindex_rights"
REFILL = "postgres_index_refill"
REINDEX = "postgres_reindex"
LEFTOVER = "postgres_index_leftover"

SHOWN = 5


def chosen(choice: Choice, role: str, version: int, told_before: Sequence[str]) -> list[Outcome]:
    """
    What choosing found out.

    :param role: the maintenance role. :param version: of the server, as 170010.
    :param told_before: indexes with an open finding of an earlier run. Those in no need today have been repaired.
    """
    wasted = sum(candidate.wasted for candidate in choice.candidates)
    facts: dict[str, Any] = {
        "indexes": len(choice.candidates),
        "wasted_bytes": wasted,
        "predicted_seconds": round(sum(candidate.seconds for candidate in choice.candidates if candidate.fits), 1),
        "do_not_fit": sum(not candidate.fits for candidate in choice.candidates),
        "looked_into": choice.looked,
        "unconfirmed": list(choice.unconfirmed[:SHOWN]),
        "disappointing": list(choice.disappointing[:SHOWN]),
    }
    need = []
    if choice.unconfirmed:
        names = ", ".join(choice.unconfirmed[:SHOWN]) + (" …" if len(choice.unconfirmed) > SHOWN else "")
        why = choice.why_not or "locked, not reached in time, or no B-tree; they are compared with themselves next time"
        need.append(
            Finding(
                check=NEED,
                severity=Severity.P4,
                summary=f"{len(choice.unconfirmed)} large indexes are new here and were not looked into: {names}",
                hint=f"{why}; include/sql/postgres/roles.sql installs what looks into indexes.",
                facts={"indexes": list(choice.unconfirmed[:100])},
            )
        )
    rights = []
    if choice.forbidden:
        names = ", ".join(one.index for one in choice.forbidden[:SHOWN])
        grants = ["pg_maintain"] if version >= 170000 else choice.owners
        rights.append(
            Finding(
                check=RIGHTS,
                # One index must not keep the others from being cared for; all of them make the task pointless.
                severity=Severity.P3 if choice.candidates else Severity.P2,
                summary=f"{len(choice.forbidden)} bloated indexes may not be rebuilt by {role}: {names}",
                hint="as a superuser: " + " ".join(f"grant {grant} to {role};" for grant in grants),
            )
        )
    refills = [
        Finding(
            check=REFILL,
            object=index,
            severity=Severity.P3,
            summary=f"bloated again {days:.1f} days after its rebuild",
            hint="another rebuild would not last: let autovacuum come sooner (autovacuum_vacuum_scale_factor of its"
            " table), lower the table's fillfactor so that updates stay on their page, or see what holds snapshots.",
        )
        for index, days in sorted(choice.refilled.items())
    ]
    repaired = sorted(set(told_before) - {candidate.index for candidate in choice.candidates})
    return [
        judged(NEED, Severity.P2, need, **facts),
        judged(RIGHTS, Severity.P2, rights),
        judged(REFILL, Severity.P3, refills),
        *(ok(REINDEX, Severity.P2, object=index) for index in repaired),
    ]


def rebuilt(item: Mapping[str, Any], result: Mapping[str, Any]) -> Outcome:
    """The outcome of one rebuild."""
    facts = {key: value for key, value in result.items() if key not in ("statement",)}
    facts |= {"bloat": item["bloat"], "estimated_bytes": item["wasted"], "predicted_seconds": item["seconds"]}
    finding = _finding(item, result)
    return judged(REINDEX, Severity.P2, [finding] if finding else [], object=item["index"], **facts)


_SAID: Mapping[str, tuple[Severity, str, str]] = {
    "in the way": (
        Severity.P3,
        "not rebuilt, it would have been built in vain: {reason}",
        "end that transaction, or wait for it; the next run takes the index. A standing one belongs to somebody.",
    ),
    "locked": (Severity.P3, "not rebuilt: {reason}", "the next run takes it; end what locks its table if it is stuck."),
    "no room": (
        Severity.P3,
        "not rebuilt: {reason}",
        "make room, or tell where free disk is read: `metrics.database_free` in the platform file.",
    ),
    "stopped": (Severity.P4, "not begun: {reason}", "it is among the first of the next window; widen the window."),
    "cancelled": (Severity.P3, "given up: {reason}", "widen the window, or make room; nothing was left behind."),
    "refused": (Severity.P2, "{reason}", "run include/sql/postgres/roles.sql; `python -m upkeep check` says more."),
    "corrupt": (
        Severity.P1,
        "its table holds what the index must not: {reason}",
        "run amcheck on it and its table, look for the rows by sequential scan, and keep the backups of before.",
    ),
}


def _finding(item: Mapping[str, Any], result: Mapping[str, Any]) -> Finding | None:
    state, index = result["state"], item["index"]
    facts = {key: result[key] for key in ("state", "seconds", "built", "leftover") if key in result}
    if leftover := result.get("leftover"):
        return Finding(
            check=REINDEX,
            object=index,
            severity=Severity.P3,
            summary=f"left {leftover} behind, which could not be dropped: {result['leftover_reason']}",
            hint=f"the next run drops it; by hand: drop index concurrently {leftover};",
            facts=facts,
        )
    if state in _SAID:
        severity, summary, hint = _SAID[state]
        said = summary.format(reason=result["reason"])
        return Finding(check=REINDEX, object=index, severity=severity, summary=said, hint=hint, facts=facts)
    if state == "done" and result["bytes_before"] - result["bytes_after"] < item["wasted"] / 2:
        freed = result["bytes_before"] - result["bytes_after"]
        return Finding(
            check=REINDEX,
            object=index,
            severity=Severity.P4,
            summary=f"its rebuild freed {size(freed)} of an expected {size(item['wasted'])}",
            hint="it is left alone until it has grown by half.",
            facts=facts,
        )
    return None


def left_behind(said: Sequence[tuple[Leftover, Mapping[str, Any]]]) -> Outcome:
    """The outcome of looking for leftovers and dropping them."""
    findings = [
        Finding(
            check=LEFTOVER,
            object=one.index,
            severity=Severity.P3,
            summary=f"invalid index ({size(one.bytes)}) is kept up to date for nobody: {result['reason']}",
            hint="its owner can: drop index concurrently" + f" {one.index};",
            facts=one.as_dict(),
        )
        for one, result in said
        if result["state"] not in ("done", "gone", "planned")
    ]
    dropped = [one for one, result in said if result["state"] == "done"]
    return judged(
        LEFTOVER, Severity.P2, findings, dropped=len(dropped), freed_bytes=sum(one.bytes for one in dropped)
    )  # fmt: skip


def could_not_look(check: str, trouble: BaseException) -> Outcome:
    return unknown(check, Severity.P2, " ".join(str(trouble).split()) or type(trouble).__name__)
