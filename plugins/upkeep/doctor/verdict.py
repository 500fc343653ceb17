"""What the checks of the doctor return: outcomes like everybody's, with words for people."""

from __future__ import annotations

from upkeep.findings import Finding, Outcome, Severity, judged, ok, unknown

MISSING = Severity.P1
"""Something that maintenance needs is not there."""

NOTE = Severity.P4
"""It works; somebody should know."""


def fine(check: str, object: str, said: str) -> Outcome:
    """
    It is there.

    :param object: the connection (or file) it is about. :param said: what was seen: ``PostgreSQL 17.10``.
    """
    return ok(check, MISSING, object=object, said=said)


def missing(check: str, object: str, said: str, cure: str) -> Outcome:
    """:param cure: what to do, ready to be copied; may have several lines."""
    return _found(check, object, MISSING, said, cure)


def note(check: str, object: str, said: str, cure: str) -> Outcome:
    """Nothing is missing; ``cure`` would make it better."""
    return _found(check, object, NOTE, said, cure)


def _found(check: str, object: str, severity: Severity, said: str, cure: str) -> Outcome:
    finding = Finding(check=check, object=object, severity=severity, summary=said, hint=cure)
    return judged(check, severity, [finding], object=object)


def unseen(check: str, object: str, reason: str, cure: str = "") -> Outcome:
    """It could not be looked at."""
    return unknown(check, MISSING, reason, object=object, **({"cure": cure} if cure else {}))
