"""What a check returns: outcomes and findings. Everything else (alerts, reports, the ledger) reads these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal

State = Literal["ok", "finding", "unknown"]


class Severity(StrEnum):
    """One scale for all platforms; P0 is the worst."""

    P0 = "P0"
    P1 = "P1"
    P2 = "P2"
    P3 = "P3"
    P4 = "P4"

    @property
    def rank(self) -> int:
        """0 for P0 … 4 for P4."""
        return int(self.value[1])

    def at_least(self, other: Severity) -> bool:
        """True when this is as bad as ``other`` or worse."""
        return self.rank <= other.rank


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is not as it should be."""

    check: str
    """What looked, e.g. ``redis_memory``; lower case, digits and underscores."""

    object: str = ""
    """Which thing of the platform, in words that stay the same from run to run (an endpoint, ``group/topic``)."""

    severity: Severity
    """How bad it is; decides who hears about it."""

    summary: str
    """What is wrong, in one line, with the numbers: ``92 of 100 connections in use``."""

    hint: str
    """What the person who reads this should do next."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    """The numbers behind it; JSON values only."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """
    What one check saw.

    An outcome that could look speaks for its *scope*: ``object`` (``""`` is the whole check). Open findings of the
    same check within that scope which it does not repeat are thereby repaired. ``unknown`` repairs nothing.
    """

    check: str
    object: str = ""
    state: State
    severity: Severity
    """What it counts as when it could not look."""

    findings: tuple[Finding, ...] = ()
    reason: str = ""
    """Why it could not look; empty otherwise."""

    explained_by: str = ""
    """The check whose finding explains why this one could not look; such an unknown alerts nobody by itself."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    """What was measured; JSON values only."""

    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: float = 0.0

    @property
    def worst(self) -> Severity | None:
        """The severity this outcome counts with; None when it is ok or explained by another."""
        if self.state == "unknown":
            return None if self.explained_by else self.severity
        return min((finding.severity for finding in self.findings), key=lambda s: s.rank, default=None)


def ok(check: str, severity: Severity, *, object: str = "", **facts: Any) -> Outcome:
    """It looked and all is well."""
    return Outcome(check=check, object=object, state="ok", severity=severity, facts=facts)


def judged(check: str, severity: Severity, findings: Iterable[Finding], *, object: str = "", **facts: Any) -> Outcome:
    """It looked; ``findings`` may be empty."""
    found = tuple(findings)
    return Outcome(
        check=check,
        object=object,
        state="finding" if found else "ok",
        severity=severity,
        findings=found,
        facts=facts,
    )


def unknown(
    check: str, severity: Severity, reason: str, *, object: str = "", explained_by: str = "", **facts: Any
) -> Outcome:
    """It could not look. Never ok."""
    return Outcome(
        check=check,
        object=object,
        state="unknown",
        severity=severity,
        reason=reason,
        explained_by=explained_by,
        facts=facts,
    )


def worst(outcomes: Iterable[Outcome]) -> Severity | None:
    """The worst severity among ``outcomes``; None when all is well."""
    return min((o.worst for o in outcomes if o.worst), key=lambda s: s.rank, default=None)


def alert_key(platform: str, check: str, object: str = "") -> str:
    """The stable identity of a finding: ``platform/check/object``."""
    return f"{platform}/{check}/{object}" if object else f"{platform}/{check}"
