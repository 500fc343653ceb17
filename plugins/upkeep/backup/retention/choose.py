"""
Which backups stay and which may go: decided over committed manifests alone, by the time that stands in them.

Nothing here looks at a clock, a name or a bucket. The rule that no other overrides: the newest backup, the newest that
is content-verified and the last ``keep_verified`` that are, stay; and when backups have stopped, so does deleting.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from upkeep.platforms.backup import Backup, Generations

NO_GENERATIONS = Generations(daily=0, weekly=0, monthly=0, yearly=0)

SKEW = timedelta(minutes=15)
"""A manifest dated further ahead of this clock means that one of the two is wrong, and nobody knows what is old."""

_PERIODS = (("daily", "day", "%Y-%m-%d"), ("weekly", "week", "%G-W%V"), ("monthly", "month", "%Y-%m"))
_YEARS = ("yearly", "year", "%Y")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One committed backup, and what people have said about it."""

    id: str
    at: datetime
    """As its manifest says; aware."""

    bytes: int = 0
    verified: bool = False
    """It was restored (an archive: read back), and its content was what its manifest says."""

    broken: bool = False
    """Somebody looked, and its content is not what its manifest says."""

    base: str = ""
    """Id of the backup without which it cannot be restored; empty when it stands alone."""

    held: str = ""
    """Why nobody may delete it, until somebody lifts that: a legal hold."""

    pinned_until: datetime | None = None
    pin: str = ""
    """Why it is pinned."""

    marked_at: datetime | None = None
    """When it was marked for deletion."""

    approved: bool = False
    """A person said yes to its deletion; it counts no more against the cap."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How long backups of one kind are kept; fields as in the platform file."""

    keep: timedelta
    keep_verified: int
    generations: Generations
    deleted_after: timedelta
    most_share: float
    fresh: timedelta

    @classmethod
    def of(cls, section: Backup, keep: timedelta, *, generations: bool) -> Rules:
        """
        :param keep: of the kind.
        :param generations: whether the platform's generations are for this kind.
        """
        return cls(
            keep=keep,
            keep_verified=section.keep_verified,
            generations=section.generations if generations else NO_GENERATIONS,
            deleted_after=section.deleted_after,
            most_share=section.most_share,
            fresh=section.fresh,
        )


Verdict = Literal["keep", "unmark", "mark", "wait", "delete"]
"""``unmark``: it was marked, and is to stay after all; ``wait``: marked, and its time has not come."""


@dataclass(frozen=True)
class Decision:
    """What becomes of one backup, and why, in words for whoever asks."""

    backup: Candidate
    verdict: Verdict
    why: str

    def row(self) -> dict[str, Any]:
        """As a plan stores it."""
        return {
            "id": self.backup.id,
            "at": self.backup.at.isoformat(),
            "bytes": self.backup.bytes,
            "verdict": self.verdict,
            "why": self.why,
        }


@dataclass(frozen=True)
class Choice:
    """What is to be done with all backups of one kind, newest first."""

    decisions: tuple[Decision, ...]
    stopped: str = ""
    """Why nothing is deleted or marked at all; then all decisions are to keep."""

    beyond: str = ""
    """How the standing yes is exceeded: marking and deleting wait for a person's yes."""

    def of(self, *verdicts: Verdict) -> list[Decision]:
        return [decision for decision in self.decisions if decision.verdict in verdicts]

    def going(self) -> list[Decision]:
        """Everything that is past its time, marked or not."""
        return self.of("mark", "wait", "delete")


def choose(backups: Iterable[Candidate], rules: Rules, now: datetime) -> Choice:
    """
    Decide about every backup of one kind.

    :param backups: all that are committed; the order does not matter.
    :param now: aware.
    """
    newest_first = sorted(backups, key=lambda backup: (backup.at, backup.id), reverse=True)
    if stopped := _stopped(newest_first, rules, now):
        return Choice(tuple(Decision(backup, "keep", stopped) for backup in newest_first), stopped=stopped)
    reasons = _reasons(newest_first, rules, now)
    decisions = tuple(_decide(backup, reasons.get(backup.id, ""), rules, now) for backup in newest_first)
    return Choice(decisions, beyond=_beyond(decisions, rules.most_share))


def _stopped(newest_first: Sequence[Candidate], rules: Rules, now: datetime) -> str:
    """Why this is no time to delete anything; empty when it is one."""
    if not newest_first:
        return "there is no backup"
    newest, verified = newest_first[0], sum(backup.verified for backup in newest_first)
    if newest.at > now + SKEW:
        return f"a clock is wrong: the newest backup is dated {moment(newest.at)}, now is {moment(now)}"
    if now - newest.at > rules.fresh:
        return (
            f"backups have stopped: the newest is of {moment(newest.at)}, {length(now - newest.at)} ago"
            f" (allowed {length(rules.fresh)})"
        )
    if newest.broken:
        return f"the newest backup, of {moment(newest.at)}, is broken"
    if verified < rules.keep_verified:
        return f"{verified} of at least {rules.keep_verified} backups are content-verified"
    return ""


def _reasons(newest_first: Sequence[Candidate], rules: Rules, now: datetime) -> dict[str, str]:
    """Why each backup that stays does; the strongest reason."""
    reasons: dict[str, str] = {}
    for id, why in _standing(newest_first, rules, now):
        reasons.setdefault(id, why)
    for id, why in _generations(newest_first, rules.generations):
        reasons.setdefault(id, why)
    bases = {backup.id: backup.base for backup in newest_first}
    for id in list(reasons):
        built_on = bases[id]
        while built_on in bases and built_on not in reasons:
            reasons[built_on] = f"backup {id}, which stays, is built on it"
            built_on = bases[built_on]
    return reasons


def _standing(newest_first: Sequence[Candidate], rules: Rules, now: datetime) -> Iterator[tuple[str, str]]:
    verified = [backup for backup in newest_first if backup.verified]
    yield newest_first[0].id, "it is the newest"
    yield verified[0].id, "it is the newest that is content-verified"
    for backup in verified[: rules.keep_verified]:
        yield backup.id, f"it is one of the last {rules.keep_verified} that are content-verified"
    for backup in newest_first:
        if backup.held:
            yield backup.id, f"it is on legal hold: {backup.held}"
        if backup.pinned_until is not None and backup.pinned_until > now:
            yield backup.id, f"it is pinned until {moment(backup.pinned_until)}: {backup.pin or 'nobody said why'}"
        if now - backup.at < rules.keep:
            yield backup.id, f"it is {length(now - backup.at)} old, and stays for {length(rules.keep)}"
        if backup.at > verified[0].at:
            yield backup.id, "it is newer than the newest that is content-verified"


def _generations(newest_first: Sequence[Candidate], generations: Generations) -> Iterator[tuple[str, str]]:
    """The last of each period, as many periods as asked for: one that is verified, if there is one."""
    for field, name, written in (*_PERIODS, _YEARS):
        last: dict[str, Candidate] = {}
        for backup in newest_first:
            period = backup.at.astimezone(UTC).strftime(written)
            if period not in last or (backup.verified and not last[period].verified):
                last[period] = backup
        count = getattr(generations, field)
        for period in sorted(last, reverse=True)[:count]:
            plural = f"{count} {name}s are" if count != 1 else f"one {name} is"
            yield last[period].id, f"it stands for the {name} {period} ({plural} kept)"


def _decide(backup: Candidate, why: str, rules: Rules, now: datetime) -> Decision:
    if why:
        return Decision(backup, "unmark" if backup.marked_at is not None else "keep", why)
    past = f"it is {length(now - backup.at)} old, past its {length(rules.keep)}, and no other rule keeps it"
    if backup.marked_at is None:
        return Decision(backup, "mark", f"{past}; deleted after {moment(now + rules.deleted_after)}")
    ends = backup.marked_at + rules.deleted_after
    # A mark from the future is somebody's wrong clock: it waits.
    if now < ends:
        return Decision(backup, "wait", f"{past}; marked {moment(backup.marked_at)}, deleted after {moment(ends)}")
    return Decision(backup, "delete", f"{past}; marked {moment(backup.marked_at)}")


def _beyond(decisions: Sequence[Decision], most_share: float) -> str:
    going = [decision for decision in decisions if decision.verdict in ("mark", "wait", "delete")]
    unasked = sum(not decision.backup.approved for decision in going)
    if unasked <= most_share * len(decisions):
        return ""
    return f"{unasked} of {len(decisions)} backups are past their time ({unasked / len(decisions):.0%})" + (
        f", allowed are {most_share:.0%}"
    )


def moment(at: datetime) -> str:
    """``2026-11-22 01:30 UTC``."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def length(of: timedelta) -> str:
    """``45 days``, ``36 h``, ``20 min``: what a person would say."""
    hours = of / timedelta(hours=1)
    if hours >= 72:
        return f"{int(hours // 24)} days"
    return f"{hours:.3g} h" if hours >= 1 else f"{max(0, round(hours * 60))} min"
