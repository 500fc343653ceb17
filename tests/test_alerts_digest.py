"""The digest: what calls nobody is said once a day, and a quiet day says nothing."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from sandbox.inboxes.client import Inbox
from tests import alerts_inbox
from tests.alerts_inbox import altered, bad, shown
from tests.conftest import run
from upkeep.alerts import tell
from upkeep.alerts.digest import MOST, send_digest
from upkeep.findings import Severity, ok
from upkeep.ledger import Ledger
from upkeep.platforms import Platform

inboxes, inbox, studyspot = alerts_inbox.inboxes, alerts_inbox.inbox, alerts_inbox.studyspot

HEAD = "StudySpot, what calls nobody: "


class Days:
    """Mornings at eight: the digest's hour, one after the other, each with its delivery."""

    def __init__(self, ledger: Ledger, platform: Platform) -> None:
        self.ledger, self.platform = ledger, platform
        # The findings of a test are made now: after its first morning and before its second.
        self.now = datetime.now(UTC).replace(hour=8, minute=0, second=1, microsecond=0) - timedelta(days=3)

    def __call__(self, days: int = 2) -> bool:
        self.now += timedelta(days=days)
        said = send_digest(self.ledger, self.platform, self.now, "https://airflow.example/upkeep/findings/")
        assert not send_digest(self.ledger, self.platform, self.now + timedelta(hours=3)), "once"
        tell.deliver_all(self.ledger, run(99, platform="upkeep"))
        return said


@pytest.fixture
def morning(ledger: Ledger, studyspot: Platform) -> Days:
    found = Days(ledger, studyspot)
    assert not found(), "the first time ever it only learns when it is"
    return found


def test_what_is_mild_is_said_once_a_day_until_it_is_over(
    inbox: Inbox, ledger: Ledger, studyspot: Platform, morning: Days
) -> None:
    tell.record(studyspot, run(1), [bad("size", "a<b", Severity.P3, "it grew"), bad("old", severity=Severity.P4)])
    assert shown(inbox) == [], "it calls nobody"
    assert morning()
    (message,) = inbox.slack()
    assert message["text"] == f"{HEAD}2 open, 2 new"
    lines = str(message["blocks"])
    assert "• P4 Low: size a&lt;b: it grew (new)" in lines
    assert "https://airflow.example/upkeep/findings/" in lines
    # The next days: P3 is said again, and that it takes long.
    assert morning(10)
    assert shown(inbox)[1:] == [f"{HEAD}2 open"]
    late = r"size a&lt;b: it grew \(for 1[01] days, should be over within 7 days\)"
    assert re.search(late, str(inbox.slack()[1]["blocks"]))
    tell.record(studyspot, run(2), [ok("size", Severity.P3, object="a<b")])
    ledger.connection.execute("update findings set resolved_at = %s where state = 'resolved'", [morning.now])
    assert morning()
    assert shown(inbox)[2:] == [f"{HEAD}1 open, 1 over"]
    # What is left is P4, and no news.
    assert not morning()


def test_a_quiet_day_and_what_calls_somebody_say_nothing_here(
    inbox: Inbox, ledger: Ledger, studyspot: Platform, morning: Days
) -> None:
    assert not morning()
    tell.record(studyspot, run(1), [bad(severity=Severity.P2)])
    assert len(shown(inbox)) == 1
    assert not morning()
    assert not send_digest(ledger, altered(studyspot, digest=None), morning.now + timedelta(days=2))


def test_a_hundred_are_counted_and_not_listed(inbox: Inbox, ledger: Ledger, studyspot: Platform, morning: Days) -> None:
    tell.record(studyspot, run(1), [bad(f"check_{n}", severity=Severity.P3, said="x" * 900) for n in range(100)])
    assert morning()
    assert shown(inbox) == [f"{HEAD}100 open, 100 new"]
    listed = inbox.slack()[0]["blocks"][1]["text"]["text"]
    assert listed.count("•") <= MOST
    assert "and 85 more" in listed or "characters)" in listed


def test_what_is_waived_is_not_said(inbox: Inbox, ledger: Ledger, studyspot: Platform, morning: Days) -> None:
    tell.record(studyspot, run(1), [bad("size", severity=Severity.P3)])
    ledger.connection.execute(
        "insert into waivers (platform, key, severity, summary, owner, reason, until)"
        " values ('studyspot', 'studyspot/size', 'P3', 's', 'jo', 'known', now() + interval '1 year')"
    )
    assert not morning()
