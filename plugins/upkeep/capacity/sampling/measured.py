"""A measurement of one thing that can run out, and running all of them side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from upkeep.errors import UpkeepError
from upkeep.findings import Outcome, Severity, ok, unknown
from upkeep.health.side_by_side import PAUSE_S, Probe, one_line

CHECK = "capacity_sample"

SEVERITY = Severity.P3
"""A day without a sample is a gap, and no trouble of the platform's."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One number of one day."""

    metric: str
    """As ``upkeep.capacity.catalog`` knows it."""

    object: str = ""
    value: float
    most: float | None = None
    """What there is of it; None where nothing limits it, or nobody knows."""

    days_ago: int = 0
    """1 for what is told of the whole day before."""


Measure = Callable[[], Iterable[Measured]]
"""Asks one source. Whatever it raises means that the source could not be asked."""


class NotMeasured(UpkeepError):
    """A source answered, and not with a number."""


class Collection:
    """What the probes bring; a probe that came too late, or failed half-way, brings nothing."""

    def __init__(self) -> None:
        self._brought: dict[str, list[Measured]] = {}

    def probe(self, source: str, measures: Mapping[str, Measure]) -> Probe:
        """One thread that asks these one after the other; each is an outcome ``capacity_sample`` of its own."""

        def look() -> list[Outcome]:
            # It answered in time: what was said of the whole probe when it did not, is over.
            whole = [] if source in measures else [ok(CHECK, SEVERITY, object=source)]
            return whole + [self._ask(name, measure) for name, measure in measures.items()]

        return Probe(CHECK, SEVERITY, look, object=source)

    def of(self, outcomes: Iterable[Outcome]) -> list[Measured]:
        """Measured by the probes whose outcomes these are."""
        known = [outcome.object for outcome in outcomes if outcome.check == CHECK and outcome.state == "ok"]
        return [one for name in known for one in self._brought.get(name, [])]

    def _ask(self, name: str, measure: Measure) -> Outcome:
        reason = ""
        for last in (False, True):
            try:
                self._brought[name] = found = [one for one in measure() if math.isfinite(one.value)]
                return ok(CHECK, SEVERITY, object=name, series=len(found))
            except UpkeepError as wrong:
                # It said no, or answered what nobody can use: another try would bring the same.
                return unknown(CHECK, SEVERITY, f"{wrong.message}; {wrong.hint}", object=name)
            except Exception as trouble:
                # Whatever a driver may raise means the same here: a gap.
                reason = one_line(trouble)
            if not last:
                time.sleep(PAUSE_S)
        return unknown(CHECK, SEVERITY, reason, object=name)
