"""How long VACUUM and ANALYZE will take, learned from how long they took."""

from __future__ import annotations

from dataclasses import dataclass

from upkeep.ledger import Ledger
from upkeep.postgres.needs import Need
from upkeep.postgres.session import query

COLD = 50e6
"""Bytes per second before anything is known."""

LEAST = 3
"""Deeds from which on their median is believed."""

START_S = 0.05
"""What even an empty table takes."""


@dataclass(frozen=True)
class Rate:
    """Bytes per second on this platform."""

    vacuum: float = COLD
    analyze: float = COLD

    def seconds(self, need: Need) -> float:
        """Predicted for one table."""
        return round(START_S + need.work_bytes / (self.analyze if need.arm == "analyze" else self.vacuum), 2)


UNKNOWN_RATE = Rate()


def learned(ledger: Ledger, platform: str) -> Rate:
    """The medians of what was done lately; without enough of it the cold start's 50 MB/s."""
    rows = ledger.rows(query("work_rate"), {"platform": platform})
    rates = {row["job"]: row["rate"] for row in rows if row["deeds"] >= LEAST and row["rate"] > 0}
    return Rate(**rates)
