"""Probes run side by side, each on a thread of its own, and none waited for beyond the deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from upkeep.alerts.redact import redact
from upkeep.findings import Outcome, Severity, unknown

PAUSE_S = 0.5
"""Between two tries at the same thing: longer than a dropped packet's retransmission (0.2 s), short in the budget."""


@dataclass(frozen=True)
class Probe:
    """One look, possibly at several things that share a connection."""

    check: str
    """What an unknown is called when the probe itself fails."""

    severity: Severity
    look: Callable[[], list[Outcome]]
    explained_by: str = ""
    object: str = ""


@dataclass
class _Attempt:
    """A probe under way."""

    probe: Probe
    at: datetime
    began: float
    deadline: float
    done: threading.Event = field(default_factory=threading.Event)
    outcomes: list[Outcome] = field(default_factory=list)


def look_side_by_side(probes: Iterable[Probe], *, deadline_s: float = 8.0, retry_after_s: float = 0.3) -> list[Outcome]:
    """
    What all probes saw, in their order.

    ``probes`` may be a generator: each probe starts as soon as it is made. A probe that raises is tried once more;
    what raises twice, or has not returned ``deadline_s`` seconds after the first one began, is ``unknown``. One that
    took long to make still has four fifths of that: a busy worker is not a hanging service.
    """
    first: float | None = None
    attempts = []
    for probe in probes:
        began = time.monotonic()
        first = began if first is None else first
        deadline = max(first + deadline_s, began + 0.8 * deadline_s)
        attempt = _Attempt(probe, datetime.now(UTC), began, deadline)
        attempts.append(attempt)
        # No pool: its threads are joined when the process ends, and a look that hangs must not hold the process.
        threading.Thread(target=_run, args=(attempt, retry_after_s), name=f"look {probe.check}", daemon=True).start()
    return [outcome for attempt in attempts for outcome in _wait(attempt, deadline_s)]


def _run(attempt: _Attempt, retry_after_s: float) -> None:
    for last in (False, True):
        try:
            attempt.outcomes = [_timed(outcome, attempt) for outcome in attempt.probe.look()]
            break
        except Exception as trouble:
            # Whatever a driver may raise means the same here: it could not look.
            attempt.outcomes = [_timed(_unknown(attempt.probe, one_line(trouble)), attempt)]
        if last or time.monotonic() + retry_after_s >= attempt.deadline:
            break
        time.sleep(retry_after_s)
    attempt.done.set()


def _timed(outcome: Outcome, attempt: _Attempt) -> Outcome:
    """The outcome with the probe's own clock, unless the look kept one for it."""
    if outcome.seconds:
        return outcome
    return replace(outcome, at=attempt.at, seconds=max(0.001, round(time.monotonic() - attempt.began, 3)))


def _wait(attempt: _Attempt, deadline_s: float) -> list[Outcome]:
    if attempt.done.wait(max(0.0, attempt.deadline - time.monotonic())):
        return attempt.outcomes
    return [_timed(_unknown(attempt.probe, f"did not return within {deadline_s:g} s"), attempt)]


def _unknown(probe: Probe, reason: str) -> Outcome:
    return unknown(probe.check, probe.severity, reason, object=probe.object, explained_by=probe.explained_by)


def one_line(error: BaseException, most: int = 300) -> str:
    """What an exception says, on one line, without secrets: ``ConnectionError: connection refused``."""
    said = " ".join(str(error).split())
    # Redacted before it is cut: half a secret is one that no pattern knows.
    text = redact(f"{type(error).__name__}: {said}" if said else type(error).__name__)
    return text if len(text) <= most else text[: most - 1] + "…"
