"""What was rehearsed: the newest drill of each kind against the promise, and how long it took over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from upkeep.drill.page import draw, judged_by, title_of
from upkeep.ledger import Ledger
from upkeep.page.ask import ask

MOST = 24
"""Drills of one kind in a plot: of six years, one each quarter."""


@dataclass(frozen=True)
class Rehearsed:
    """One kind of drill of one platform."""

    platform: str
    act: str
    scenario: str
    title: str
    state: str
    """Of the newest one: ``ok``, ``failed``, ``unknown``."""

    newest: dict[str, Any]
    """Its row."""

    plots: Sequence[dict[str, Any]]
    """Where there are two drills or more: one point is in the table already."""

    @property
    def at(self) -> datetime:
        """When the newest one began."""
        began: datetime = self.newest["started_at"]
        return began


def rehearsed(ledger: Ledger, platforms: Sequence[str]) -> list[Rehearsed]:
    """Each kind that was ever rehearsed."""
    rows = ask(ledger, "drills", platforms=list(platforms), most=MOST)
    kinds = groupby(rows, key=lambda row: (row["platform"], row["act"], row["scenario"]))
    return [_kind(*kind, list(them)) for kind, them in kinds]


def _kind(platform: str, act: str, scenario: str, rows: list[dict[str, Any]]) -> Rehearsed:
    newest = rows[0]
    return Rehearsed(
        platform=platform,
        act=act,
        scenario=scenario,
        title=title_of(act, scenario),
        state=judged_by(newest[f"{part}_verdict"] for part in ("act", "validation", "cleanup")),
        newest=newest,
        plots=[plot for name in ("rto", "rpo") if (plot := draw(rows[::-1], name)) and plot["count"] > 1],
    )
