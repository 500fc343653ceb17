"""A watch that looks every five minutes: a blip calls nobody, what lasts pages once, what flaps stays open."""

from __future__ import annotations

import pytest

from sandbox.inboxes.client import Inbox
from tests import alerts_inbox
from tests.alerts_inbox import actions, bad, pass_time, shown
from tests.conftest import run
from upkeep.alerts import tell
from upkeep.alerts.rules import patience_of
from upkeep.findings import Outcome, Severity, ok, unknown
from upkeep.ledger import Ledger
from upkeep.platforms import Platform

inboxes, inbox, studyspot = alerts_inbox.inboxes, alerts_inbox.inbox, alerts_inbox.studyspot

FINE = ok("redis_memory", Severity.P1)
BAD = bad()
BLIND = unknown("redis_memory", Severity.P1, "connection refused")


class Watch:
    """Looks, five minutes apart."""

    def __init__(self, ledger: Ledger, platform: Platform) -> None:
        self.ledger, self.platform, self.looks = ledger, platform, 0

    def sees(self, *outcomes: Outcome, daily: bool = False) -> list[str]:
        events = []
        for outcome in outcomes:
            self.looks += 1
            patience = {} if daily else {"patience": patience_of(self.platform)}
            changes = tell.record(self.platform, run(self.looks), [outcome], **patience)
            events += [change.event for change in changes]
            pass_time(self.ledger, 300)
        return events


@pytest.fixture
def watch(inbox: Inbox, ledger: Ledger, studyspot: Platform) -> Watch:
    return Watch(ledger, studyspot)


def test_a_blip_of_one_look_calls_nobody_and_leaves_nothing(watch: Watch, inbox: Inbox) -> None:
    assert watch.sees(FINE, BAD, FINE, BLIND, FINE, BAD, FINE) == []
    assert (inbox.pagerduty(), inbox.slack()) == ([], [])
    assert watch.ledger.rows("select 1 from findings") == []
    assert len(watch.ledger.rows("select 1 from outcomes where state <> 'ok'")) == 3


def test_what_lasts_pages_at_the_second_look_and_resolves_once_after_two_good_ones(watch: Watch, inbox: Inbox) -> None:
    assert watch.sees(BAD) == []
    assert watch.sees(BAD, BAD, BAD) == ["opened"]
    assert actions(inbox) == [("trigger", "redis_memory")]
    assert watch.sees(FINE) == []
    assert watch.sees(FINE, FINE, FINE) == ["resolved"]
    assert actions(inbox) == [("trigger", "redis_memory"), ("resolve", "redis_memory")]
    assert len(inbox.slack()) == 2


def test_could_not_look_counts_as_a_bad_look_and_never_as_a_good_one(watch: Watch, inbox: Inbox) -> None:
    assert watch.sees(BAD, BLIND) == ["opened"]
    assert watch.sees(FINE, BLIND, FINE, BLIND) == []
    assert watch.sees(FINE, FINE) == ["resolved"]
    assert [action for action, _ in actions(inbox)] == ["trigger", "resolve"]


def test_what_flaps_pages_three_times_in_a_day_and_then_stays_open(watch: Watch, inbox: Inbox) -> None:
    for _ in range(12):
        watch.sees(BAD, BAD, FINE, FINE, FINE, BAD)
    assert [action for action, _ in actions(inbox)].count("trigger") <= 3
    assert watch.sees(*[FINE] * 12)[-1:] == ["resolved"]
    (row,) = watch.ledger.rows("select state from findings")
    assert row["state"] == "resolved"


def test_a_daily_look_is_believed_at_once_both_ways(watch: Watch, inbox: Inbox) -> None:
    assert watch.sees(BAD, daily=True) == ["opened"]
    assert watch.sees(FINE, daily=True) == ["resolved"]
    # … and confirms what the watch only suspects.
    assert watch.sees(BAD) == []
    assert watch.sees(BAD, daily=True) == ["reopened"]


def test_getting_worse_for_one_look_pages_nobody(watch: Watch, inbox: Inbox) -> None:
    warned = bad(severity=Severity.P2)
    watch.sees(warned, warned, BAD, warned)
    assert inbox.pagerduty() == []
    assert watch.sees(BAD, BAD) == ["worse"]
    assert actions(inbox) == [("trigger", "redis_memory")]


def test_what_was_over_for_long_pages_anew_and_a_blip_on_it_does_not(watch: Watch, inbox: Inbox) -> None:
    watch.sees(BAD, BAD, FINE, FINE)
    pass_time(watch.ledger, 7200)
    assert watch.sees(BAD, FINE) == []
    assert watch.sees(BAD, BAD) == ["reopened"]
    (row,) = watch.ledger.rows("select flaps from findings")
    assert row["flaps"] == 0
    assert shown(inbox)[0] == shown(inbox)[2]
