"""Proved backups: how old they are, and what would be lost if everything broke now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from upkeep.ledger import Ledger
from upkeep.page.ask import ask, by_platform
from upkeep.platforms import Platform
from upkeep.report.wording import about

State = Literal["ok", "finding", "unknown", "failed"]

WORST_FIRST: tuple[State, ...] = ("failed", "finding", "unknown", "ok")

NAMES = {
    "database": "database (dump)",
    "cluster": "whole cluster",
    "files": "files",
    "configuration": "configuration",
}


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The backups of one kind."""

    kind: str
    name: str
    state: State
    said: str
    newest_at: datetime | None = None
    newest_id: str = ""
    bytes: int | None = None
    proved_at: datetime | None = None
    """Of when the newest is whose restored content was what its manifest says."""

    proved_id: str = ""
    log_at: datetime | None = None
    """Whole clusters: so far the log lies in the bucket without a gap."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What one platform could get back now."""

    state: State
    said: str
    kinds: Sequence[Kept]
    back_to: datetime | None = None
    """The newest moment of the database that was proved to come back."""

    loss_s: float | None = None
    promise_s: float | None = None
    """``recovery.rpo`` of the platform file."""


def proofs(ledger: Ledger, platforms: Sequence[Platform], now: datetime) -> dict[str, Proof]:
    """By name, for the platforms that have a ``backup`` section."""
    those = [platform for platform in platforms if platform.backup is not None]
    names = [platform.name for platform in those]
    rows = by_platform(ask(ledger, "backups_now", platforms=names))
    with_log = [platform.name for platform in those if platform.backup and platform.backup.cluster]
    logs = {row["platform"]: row for row in ask(ledger, "log_now", platforms=with_log)} if with_log else {}
    return {
        platform.name: _proof(platform, {row["kind"]: row for row in rows.get(platform.name, [])}, logs, now)
        for platform in those
    }


def _proof(
    platform: Platform, rows: Mapping[str, Mapping[str, Any]], logs: Mapping[str, Mapping[str, Any]], now: datetime
) -> Proof:
    section = platform.backup
    assert section is not None
    asked = [kind for kind in NAMES if getattr(section, kind) is not None]
    log = logs.get(platform.name)
    fresh_s = section.fresh.total_seconds()
    kinds = [_kept(kind, rows.get(kind), log if kind == "cluster" else None, fresh_s, now) for kind in asked]
    promise_s = platform.recovery.rpo.total_seconds() if platform.recovery else None
    points = []
    for one in kinds:
        if one.kind in ("database", "cluster") and one.proved_at:
            points.append(max(one.proved_at, one.log_at) if one.log_at else one.proved_at)
    worst: State = next((state for state in WORST_FIRST if any(kept.state == state for kept in kinds)), "ok")
    if not any(kind in ("database", "cluster") for kind in asked):
        return Proof(state=worst, said=_first_wrong(kinds) or "all as young as they should be", kinds=kinds)
    if not points:
        said = "nothing of the database is proved to come back"
        return Proof(state="failed", said=said, kinds=kinds, promise_s=promise_s)
    back_to = max(points)
    loss_s = max(0.0, (now - back_to).total_seconds())
    said = f"proved back to {about(loss_s)} ago"
    if promise_s is not None and loss_s > promise_s:
        worst = "failed" if worst == "failed" else "finding"
        said += f"; promised {about(promise_s)}"
    elif wrong := _first_wrong(kinds):
        said += f"; {wrong}"
    return Proof(state=worst, said=said, kinds=kinds, back_to=back_to, loss_s=loss_s, promise_s=promise_s)


def _first_wrong(kinds: Sequence[Kept]) -> str:
    return next((f"{one.name}: {one.said}" for one in kinds if one.state != "ok"), "")


def _kept(
    kind: str, row: Mapping[str, Any] | None, log: Mapping[str, Any] | None, fresh_s: float, now: datetime
) -> Kept:
    if row is None:
        return Kept(kind=kind, name=NAMES[kind], state="failed", said="none on record")
    old_s = (now - row["newest_at"]).total_seconds()
    proved_s = (now - row["proved_at"]).total_seconds() if row["proved_at"] else None
    # The same allowance as the checks backup_age and backup_verified have.
    state: State = "ok"
    said = "young, and proved" if kind != "files" else "young; every file is compared as it is copied"
    if row["content_state"] == "broken" or row["bytes_state"] == "broken":
        state, said = "failed", f"the newest is broken: {row['content_reason'] or 'its bytes differ'}"
    elif old_s > fresh_s:
        state, said = "finding", f"the newest is {about(old_s)} old, allowed are {about(fresh_s)}"
    elif kind != "files" and proved_s is None:
        state, said = "unknown", "none was ever proved"
    elif kind != "files" and proved_s is not None and proved_s > 2 * fresh_s:
        state, said = "finding", f"the newest proved one is {about(proved_s)} old, allowed are {about(2 * fresh_s)}"
    elif log is not None and log["state"] != "ok":
        state, said = "finding", "the last round that fetched the log failed"
    return Kept(
        kind=kind,
        name=NAMES[kind],
        state=state,
        said=said,
        newest_at=row["newest_at"],
        newest_id=row["newest_id"],
        bytes=row["newest_bytes"],
        proved_at=row["proved_at"],
        proved_id=row["proved_id"] or "",
        log_at=log["good_at"] if log else None,
    )
