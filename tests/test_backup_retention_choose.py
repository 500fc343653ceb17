"""Which backups stay: no history of backups, verifications, pins and clocks leaves too few or deletes the newest."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from upkeep.backup.retention.choose import NO_GENERATIONS, Candidate, Choice, Rules, choose
from upkeep.platforms.backup import Generations

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
RULES = Rules(
    keep=30 * DAY, keep_verified=3, generations=NO_GENERATIONS, deleted_after=24 * HOUR, most_share=1.0, fresh=36 * HOUR
)


def daily(days: int, *, first: float = 0.1) -> list[Candidate]:
    """One a day, all verified; ``d00`` is the newest."""
    return [Candidate(id=f"d{n:02}", at=NOW - (n + first) * DAY, verified=True) for n in range(days)]


def verdicts(choice: Choice) -> dict[str, str]:
    return {decision.backup.id: decision.verdict for decision in choice.decisions}


def why(choice: Choice, id: str) -> str:
    return next(decision.why for decision in choice.decisions if decision.backup.id == id)


def changed(backups: list[Candidate], id: str, **fields: object) -> list[Candidate]:
    return [replace(backup, **fields) if backup.id == id else backup for backup in backups]  # type: ignore[arg-type]


def test_what_is_past_its_days_is_marked_waits_and_is_deleted_a_day_later() -> None:
    backups = daily(32)
    choice = choose(backups, RULES, NOW)
    assert [d.backup.id for d in choice.going()] == ["d30", "d31"]
    assert verdicts(choice)["d30"] == "mark"
    assert why(choice, "d30") == (
        "it is 30 days old, past its 30 days, and no other rule keeps it; deleted after 2026-11-23 03:00 UTC"
    )
    backups = changed(backups, "d30", marked_at=NOW - 23 * HOUR)
    backups = changed(backups, "d31", marked_at=NOW - 25 * HOUR)
    again = choose(backups, RULES, NOW)
    assert (verdicts(again)["d30"], verdicts(again)["d31"]) == ("wait", "delete")


def test_when_backups_stopped_forty_days_ago_nothing_is_deleted() -> None:
    choice = choose(daily(60, first=40), RULES, NOW)
    assert choice.going() == []
    assert choice.stopped == ("backups have stopped: the newest is of 2026-10-13 03:00 UTC, 40 days ago (allowed 36 h)")


@pytest.mark.parametrize(
    ("newest", "said"),
    [
        ({"at": NOW + 3 * HOUR}, "a clock is wrong: the newest backup is dated 2026-11-22 06:00 UTC"),
        ({"broken": True, "verified": False}, "the newest backup, of 2026-11-22 00:36 UTC, is broken"),
    ],
)
def test_nothing_is_deleted_on_a_wrong_clock_or_a_broken_newest(newest: dict[str, object], said: str) -> None:
    choice = choose(changed(daily(40), "d00", **newest), RULES, NOW)
    assert choice.going() == []
    assert choice.stopped.startswith(said)


def test_nothing_is_deleted_while_too_few_are_content_verified() -> None:
    backups = [replace(backup, verified=backup.id in ("d33", "d35")) for backup in daily(40)]
    assert choose(backups, RULES, NOW).stopped == "2 of at least 3 backups are content-verified"
    assert choose([], RULES, NOW).stopped == "there is no backup"


def test_the_last_verified_stay_however_old_and_what_is_newer_than_the_newest_of_them() -> None:
    backups = [replace(backup, verified=int(backup.id[1:]) >= 33) for backup in daily(40)]
    choice = choose(backups, RULES, NOW)
    assert [d.backup.id for d in choice.going()] == ["d36", "d37", "d38", "d39"]
    assert why(choice, "d33") == "it is the newest that is content-verified"
    assert why(choice, "d35") == "it is one of the last 3 that are content-verified"
    assert why(choice, "d31") == "it is newer than the newest that is content-verified"


def test_a_pin_a_hold_and_a_base_keep_and_take_a_mark_away_again() -> None:
    backups = changed(daily(36), "d31", marked_at=NOW - 2 * DAY, pinned_until=NOW + DAY, pin="audit of 2026")
    backups = changed(backups, "d32", pinned_until=NOW - DAY, pin="over")
    backups = changed(backups, "d33", held="case 4711", base="d35")
    choice = choose(backups, RULES, NOW)
    assert {id: verdicts(choice)[id] for id in ("d30", "d31", "d32", "d33", "d34", "d35")} == {
        "d30": "mark", "d31": "unmark", "d32": "mark", "d33": "keep", "d34": "mark", "d35": "keep",
    }  # fmt: skip
    assert why(choice, "d31") == "it is pinned until 2026-11-23 03:00 UTC: audit of 2026"
    assert why(choice, "d33") == "it is on legal hold: case 4711"
    assert why(choice, "d35") == "backup d33, which stays, is built on it"


def test_generations_keep_the_last_of_each_period_and_rather_a_verified_one() -> None:
    rules = replace(RULES, keep=DAY, generations=Generations(daily=5, weekly=3, monthly=4, yearly=1))
    backups = changed(daily(150), "d30", verified=False)
    choice = choose(backups, rules, NOW)
    kept = {d.backup.id: d.why for d in choice.decisions if d.verdict == "keep"}
    # 22 November 2026 is a Sunday: its ISO week began on the 16th; 31 October is d22, 30 September d53 …
    assert sorted(kept) == ["d00", "d01", "d02", "d03", "d04", "d07", "d14", "d22", "d53", "d83"]
    assert kept["d14"] == "it stands for the week 2026-W45 (3 weeks are kept)"
    assert kept["d53"] == "it stands for the month 2026-09 (4 months are kept)"
    broken = choose(changed(backups, "d53", verified=False), rules, NOW)
    assert verdicts(broken)["d53"] == "mark"
    assert why(broken, "d54") == "it stands for the month 2026-09 (4 months are kept)"


def test_more_than_the_share_asks_a_person_and_what_was_approved_counts_no_more() -> None:
    rules = replace(RULES, keep=DAY, most_share=0.5)
    choice = choose(daily(10), rules, NOW)
    assert choice.beyond == "7 of 10 backups are past their time (70%), allowed are 50%"
    approved = [replace(b, approved=b.id in ("d08", "d09"), marked_at=NOW) for b in daily(10)]
    assert choose(approved, rules, NOW).beyond == ""


# -- any history ----------------------------------------------------------------------------------------------

ages = some.integers(min_value=-3 * 24 * 60, max_value=800 * 24 * 60)
histories = some.lists(
    some.builds(
        lambda age, verified, **more: Candidate(id="", at=NOW - timedelta(minutes=age), verified=verified, **more),
        ages,
        some.booleans(),
        broken=some.sampled_from([False] * 9 + [True]),
        held=some.sampled_from([""] * 5 + ["a case"]),
        pinned_until=some.none() | some.integers(-10, 10).map(lambda days: NOW + days * DAY),
        marked_at=some.none() | ages.map(lambda age: NOW - timedelta(minutes=age)),
        approved=some.booleans(),
    ),
    max_size=60,
).flatmap(
    lambda backups: some.lists(
        some.integers(0, max(0, len(backups) - 1)), min_size=len(backups), max_size=len(backups)
    ).map(
        # Names say nothing about age; some are built on others, circles and all.
        lambda bases: [
            replace(
                backup, id=f"b{n}", verified=backup.verified and not backup.broken, base=f"b{base}" if n % 3 else ""
            )
            for n, (backup, base) in enumerate(zip(backups, bases, strict=True))
        ]
    )
)
rules = some.builds(
    Rules,
    keep=some.integers(1, 400).map(lambda days: days * DAY),
    keep_verified=some.integers(1, 12),
    generations=some.builds(
        Generations, daily=some.integers(0, 9), weekly=some.integers(0, 5), monthly=some.integers(0, 5),
        yearly=some.integers(0, 2),
    ),
    deleted_after=some.integers(1, 72).map(lambda hours: hours * HOUR),
    most_share=some.sampled_from([0.1, 0.5, 1.0]),
    fresh=some.integers(1, 90 * 24).map(lambda hours: hours * HOUR),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(histories, rules)
def test_no_history_leaves_fewer_verified_than_asked_or_deletes_the_newest(
    backups: list[Candidate], rules: Rules
) -> None:
    choice = choose(backups, rules, NOW)
    assert sorted(d.backup.id for d in choice.decisions) == sorted(b.id for b in backups)
    going = {decision.backup.id for decision in choice.going()}
    left = [backup for backup in backups if backup.id not in going]
    had = sum(backup.verified for backup in backups)
    assert sum(backup.verified for backup in left) >= min(rules.keep_verified, had)
    if backups:
        newest = max(backups, key=lambda b: (b.at, b.id))
        assert newest.id not in going
        if NOW - newest.at > rules.fresh:
            assert not going
    verified = [backup for backup in backups if backup.verified]
    if verified:
        assert max(verified, key=lambda b: (b.at, b.id)).id not in going
    by_id = {backup.id: backup for backup in backups}
    for decision in choice.going():
        backup = decision.backup
        assert not backup.held
        assert NOW - backup.at >= rules.keep
        assert not (backup.pinned_until and backup.pinned_until > NOW)
        assert decision.verdict != "delete" or (backup.marked_at and NOW - backup.marked_at >= rules.deleted_after)
    for backup in left:
        assert not backup.base or not choice.going() or backup.base not in going or backup.base not in by_id


@settings(max_examples=8, deadline=None)
@given(some.data(), rules)
def test_night_after_night_the_last_verified_are_there(data: some.DataObject, rules: Rules) -> None:
    live(data, rules)


@pytest.mark.soak
@settings(max_examples=400, deadline=None)
@given(some.data(), rules)
def test_four_hundred_lives(data: some.DataObject, rules: Rules) -> None:
    live(data, rules)


def live(data: some.DataObject, rules: Rules) -> None:
    """A whole life of backups: some nights none is made, some are never verified, some deeds fail half-way."""
    there: dict[str, Candidate] = {}
    most_verified = 0
    for night in range(60):
        now = NOW + night * DAY
        if data.draw(some.integers(0, 4)):
            verified = bool(data.draw(some.integers(0, 3)))
            there[f"n{night}"] = Candidate(id=f"n{night}", at=now - HOUR, verified=verified)
        choice = choose(there.values(), rules, now)
        if not choice.beyond:
            for decision in choice.decisions:
                if decision.verdict == "delete" and data.draw(some.booleans()):
                    del there[decision.backup.id]
                elif decision.verdict in ("mark", "unmark"):
                    mark = now if decision.verdict == "mark" else None
                    there[decision.backup.id] = replace(decision.backup, marked_at=mark)
        verified_now = sum(backup.verified for backup in there.values())
        most_verified = max(most_verified, verified_now)
        assert verified_now >= min(rules.keep_verified, most_verified)
