"""What drills of dead processes left is put back: Deployments, autoscalers, a pair of servers, rows, copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from upkeep.drill import record
from upkeep.errors import UpkeepError
from upkeep.ledger import Ledger

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

    from upkeep.drill.failover.pair import Driver

WITHIN_S = 300.0


@dataclass(frozen=True)
class Hands:
    """With what it reaches the platform; each is asked for only when it is needed."""

    kubernetes: Callable[[], ApiClient]
    driver: Callable[[], Driver]


@dataclass(frozen=True)
class Settled:
    """One drill whose process died."""

    id: int
    act: str
    phase: str
    done: tuple[str, ...]
    trouble: str = ""
    """Why not all is put back; empty when it is."""


def put_back(ledger: Ledger, platform: str, hands: Hands, *, within_s: float = WITHIN_S) -> list[Settled]:
    """
    Whoever calls holds the platform's drill lock: whoever has not ended is dead.

    Throw-away clusters are swept by ``scratch.sweep``, as those of verifications are.
    """
    settled = []
    for row in record.unfinished(ledger, platform):
        done: list[str] = []
        trouble = ""
        for entry in row["undo"]:
            try:
                done += _one(entry, row["id"], hands, within_s)
            except (UpkeepError, psycopg.Error, OSError) as refused:
                said = getattr(refused, "message", "") or " ".join(str(refused).split())
                trouble = trouble or f"{entry['kind']}: {said}"
        dead = row["ended_at"] is None
        reason = f"its process died in phase {row['phase'] or 'begin'}" if dead else ""
        record.settled(
            ledger, row["id"], cleanup="failed" if trouble else "passed", reason=reason or trouble
        )  # fmt: skip
        settled.append(Settled(row["id"], row["act"], row["phase"], tuple(done), trouble))
    return settled


def _one(entry: dict[str, Any], drill: int, hands: Hands, within_s: float) -> list[str]:
    if entry["kind"] == "deployment":
        from upkeep.drill import application

        told = application.put_back(hands.kubernetes(), entry, within_s=within_s)
        return [told or f"{entry['name']} has {entry['replicas']} replicas again"]
    if entry["kind"] == "pair":
        return hands.driver().mend(entry["primary"])
    if entry["kind"] == "canary":
        from upkeep.drill.failover import act

        return [f"{act.clean(hands.driver(), drill)['rows']} rows of the canary removed"]
    raise UpkeepError(f"unknown kind {entry['kind']!r}", hint="the ledger is of a newer version: update this worker.")
