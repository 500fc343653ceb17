"""What an incident may become, its clocks and its names: for all incidents, not for some."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upkeep.findings import Severity
from upkeep.incident.naming import channel_name, severity_named
from upkeep.incident.states import AT_WORK, MOVES, Clocks, Due, IncidentError, State, due, move, review_due
from upkeep.platforms import platform
from upkeep.platforms.alerting import Level

STATES: list[State] = list(MOVES)
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
P0 = Level(
    name="P1 Critical", respond=timedelta(minutes=15), resolve=timedelta(hours=2), remind=timedelta(minutes=15),
    update=timedelta(minutes=30), review=True,
)  # fmt: skip


@given(st.lists(st.sampled_from(STATES), max_size=30), st.booleans())
def test_only_what_follows_is_taken_and_a_closed_one_stays_closed(wanted: list[State], review: bool) -> None:
    state, been = STATES[0], [STATES[0]]
    for to in wanted:
        if to in MOVES[state] and not (review and (state, to) == ("resolved", "closed")):
            state = move(state, to, review=review)
            been.append(state)
        else:
            with pytest.raises(IncidentError, match=r"cannot become \w+\nHINT: "):
                move(state, to, review=review)
    if "closed" in been:
        assert been.index("closed") == len(been) - 1
        assert "resolved" in been
        assert "review" in been or not review


@given(st.sampled_from(STATES), st.booleans())
def test_every_state_can_be_closed_in_the_end(state: State, review: bool) -> None:
    for _ in range(5):
        if state == "closed":
            return
        state = move(state, MOVES[state][-1] if not (review and state == "resolved") else "review", review=review)
    pytest.fail(state)


@given(st.sampled_from(STATES), st.integers(0, 60 * 24 * 14), st.integers(1, 120))
def test_told_step_by_step_or_after_a_pause_nothing_is_told_twice(state: State, minutes: int, step: int) -> None:
    told: dict[str, int] = {}
    updated = None
    resolved = None if state in AT_WORK else NOON
    for minute in range(0, min(minutes, 2000), step):
        now = NOON + timedelta(minutes=minute)
        clocks = Clocks(
            state=state, severity=Severity.P0, declared_at=NOON, resolved_at=resolved, told=told, updated_at=updated  # type: ignore[arg-type]
        )  # fmt: skip
        found = due(clocks, P0, now)
        assert len({one.kind for one in found}) == len(found)
        for one in found:
            assert one.number == told.get(one.kind, 0) + 1
            told[one.kind] = one.number
            updated = now if one.kind == "update" else updated
            assert one.kind != "unacknowledged" or state == "open"
            assert one.kind == "review_due" or state in AT_WORK
    assert told.get("unresolved", 0) <= 1


def test_an_unacknowledged_p0_is_told_at_15_and_30_minutes_managers_at_30() -> None:
    def at(minutes: int, **told: int) -> list[Due]:
        clocks = Clocks(
            state="open", severity=Severity.P0, declared_at=NOON, told=told, updated_at=NOON + timedelta(days=9)
        )  # type: ignore[arg-type]
        return due(clocks, P0, NOON + timedelta(minutes=minutes))

    assert at(14) == []
    assert at(15) == [Due("unacknowledged", 1)]
    assert at(29, unacknowledged=1) == []
    assert at(30, unacknowledged=1) == [Due("unacknowledged", 2, manager=True)]
    assert at(120, unacknowledged=9) == [Due("unresolved", 1, manager=True)]


def test_a_review_is_due_in_three_days_for_p0_and_five_working_days_for_p1() -> None:
    friday = NOON
    assert review_due(friday, Severity.P0) == friday + timedelta(days=3)
    assert review_due(friday, Severity.P1) == friday + timedelta(days=7)


@settings(max_examples=300)
@given(st.text(max_size=300) | st.sampled_from(["@channel <!here>", "x" * 1_000_000, "🔥" * 200, "'; drop", "\n\r\0"]))
def test_a_channels_name_is_one_that_slack_takes_whatever_the_title(title: str) -> None:
    name = channel_name("adaptive-learning-123456", title)
    assert re.fullmatch(r"inc-adaptive-learning-123456(-[a-z0-9-]*)?", name)
    assert len(name) <= 80


@pytest.mark.parametrize(
    ("name", "said", "meant"),
    [
        ("studyspot", "P1", Severity.P0),
        ("studyspot", "p1 critical", Severity.P0),
        ("studyspot", "High", Severity.P1),
        ("adaptive_learning", "P0", Severity.P0),
        ("adaptive_learning", "P1", Severity.P1),
        ("studyspot", "sev-1", Severity.P1),
        ("studyspot", "", Severity.P1),
    ],
)
def test_each_platform_is_understood_by_its_own_names_and_what_nobody_knows_is_p1(
    name: str, said: str, meant: Severity
) -> None:
    assert severity_named(platform(name), said) == meant
