"""How many rows a transaction takes, and how long it rests after it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from upkeep.platforms.database import Deletion

SMOOTHING = 0.4
"""Weight of the last transaction in the average (GitLab's BatchOptimizer)."""

LEAST_REST_S = 0.001
MOST_FAILURES = 3
"""At the fewest rows, one after another: then it stops."""


@dataclass
class Pace:
    """Adapts to the time that transactions take, not to their rows."""

    settings: Deletion
    rows: int = 0
    longest_s: float = 0.0
    rested_s: float = 0.0
    failures: int = 0
    _average: float | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.rows = self.rows or self.settings.least_rows

    def took(self, seconds: float, *, full: bool) -> None:
        """A transaction was done; ``full`` when it had as many rows as it might."""
        self.failures = 0
        self.longest_s = max(self.longest_s, seconds)
        before = seconds if self._average is None else self._average
        self._average = SMOOTHING * seconds + (1 - SMOOTHING) * before
        if full:
            target = self.settings.batch.total_seconds()
            factor = min(max(target / max(self._average, 1e-6), 0.5), 1.2)
            self.rows = min(max(round(self.rows * factor), self.settings.least_rows), self.settings.most_rows)

    def failed(self) -> bool:
        """A transaction ran into a time-out; True when it is of no use to go on."""
        if self.rows > self.settings.least_rows:
            self.rows = max(self.rows // 2, self.settings.least_rows)
            return False
        self.failures += 1
        return self.failures >= MOST_FAILURES

    def rest(self, seconds: float, ends: datetime | None) -> None:
        """Leave the server to the application for a while."""
        pause = max(LEAST_REST_S, self.settings.rest * seconds) if self.settings.rest else 0.0
        if ends is not None:
            pause = min(pause, max(0.0, (ends - datetime.now(UTC)).total_seconds()))
        if pause:
            time.sleep(pause)
            self.rested_s += pause
