"""Delivery with every path broken: nothing lost, nothing said twice, in the right order, and somebody hears."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial
from typing import Any

import pytest

from sandbox.home import REPOSITORY
from sandbox.inboxes.client import Inbox
from tests import alerts_inbox
from tests.alerts_inbox import actions, altered, bad, pass_time, shown
from tests.conftest import run
from upkeep.alerts import tell
from upkeep.alerts.messages import messages_for
from upkeep.findings import Severity, ok
from upkeep.ledger import Ledger
from upkeep.platforms import Platform

inboxes, inbox, studyspot = alerts_inbox.inboxes, alerts_inbox.inbox, alerts_inbox.studyspot

FINE = ok("redis_memory", Severity.P1)


class Clock:
    """``alert_delivery`` every so many seconds of a clock that needs no waiting."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.runs = ledger, 0

    def goes_on(self, minutes: int, every_s: int = 60) -> None:
        for _ in range(minutes * 60 // every_s):
            pass_time(self.ledger, every_s)
            self.runs += 1
            tell.deliver_all(self.ledger, run(1000 + self.runs, platform="upkeep"))


@pytest.fixture
def clock(ledger: Ledger) -> Clock:
    return Clock(ledger)


@pytest.fixture
def mailing(studyspot: Platform, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """StudySpot with somebody to mail to."""
    subject = altered(studyspot, email=["oncall@example.com"])
    for name in ("platform", "platforms"):
        monkeypatch.setattr(tell, name, lambda *_, name=name: subject if name == "platform" else [subject])
    return subject


DOWN = {"status": 503}


def test_pagerduty_down_for_an_hour_loses_nothing_and_slack_and_mail_hear_meanwhile(
    inbox: Inbox, ledger: Ledger, mailing: Platform, clock: Clock
) -> None:
    inbox.script("/v2/*", service="pagerduty", **DOWN)
    tell.record(mailing, run(1), [bad(severity=Severity.P0)])
    clock.goes_on(60, every_s=300)
    assert inbox.pagerduty() == []
    # Reminded at 15 and 30 min and at 1 h, in the alert's thread; from the second time in a second channel and by mail.
    assert [text.split(" for ")[0] for text in shown(inbox)][1:] == ["Nobody has acknowledged this"] * 5
    assert [message["channel"] for message in inbox.slack()].count("studyspot-ops") == 2
    assert all(message["thread_ts"] for message in inbox.slack()[1:] if message["channel"] == "alerts")
    mails = inbox.mails()
    assert [mail["to"] for mail in mails] == [["oncall@example.com"]] * 3
    assert mails[0]["subject"] == "StudySpot P1 Critical: redis_memory: broken"
    assert "This comes by mail because PagerDuty cannot be reached." in mails[0]["body"]
    inbox.unscript()
    clock.goes_on(20, every_s=300)
    tell.record(mailing, run(2), [FINE])
    clock.goes_on(5)
    key = "redis_memory"
    assert actions(inbox)[0] == ("trigger", key)
    assert actions(inbox).count(("resolve", key)) == 1
    assert actions(inbox)[-1] == ("resolve", key)
    (incident,) = inbox.incidents()
    assert (incident["key"], incident["state"]) == ("studyspot/redis_memory", "resolved")
    assert ledger.rows("select 1 from outbox where state <> 'delivered'") == []


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"status": 429, "headers": {"Retry-After": "1800"}}, id="429", marks=pytest.mark.soak),
        pytest.param({"status": 500}, id="500", marks=pytest.mark.soak),
        pytest.param({"close": True}, id="reset", marks=pytest.mark.soak),
        pytest.param({"accept": True, "close": True}, id="accepted without a word"),
        pytest.param({"accept": True, "status": 500}, id="accepted with 500", marks=pytest.mark.soak),
    ],
)
def test_with_both_down_for_an_hour_every_alert_arrives_once_and_in_order(
    inbox: Inbox, ledger: Ledger, studyspot: Platform, clock: Clock, fault: dict[str, Any]
) -> None:
    for path in ("/v2/enqueue", "/api/chat.postMessage"):
        inbox.script(path, times=3 if fault.get("accept") else None, **fault)
    checks = [f"check_{n}" for n in range(4)]
    for n, check in enumerate(checks):
        tell.record(studyspot, run(n), [bad(check)])
    clock.goes_on(10, every_s=300)
    tell.record(studyspot, run(9), [ok("check_0", Severity.P1)])
    clock.goes_on(45, every_s=300)
    inbox.unscript()
    clock.goes_on(15, every_s=300)
    for check in checks:
        told = [
            message for message in inbox.slack() if check in message["text"] and "acknowledged" not in message["text"]
        ]
        assert [message["text"].startswith("Resolved") for message in told] == [False, True][: 1 + (check == "check_0")]
    assert sorted(incident["key"] for incident in inbox.incidents()) == [f"studyspot/{check}" for check in checks]
    assert [i["state"] for i in inbox.incidents() if i["key"].endswith("check_0")] == ["resolved"]
    assert ledger.rows("select 1 from outbox where state <> 'delivered'") == []


def test_whoever_is_down_is_asked_once_per_delivery_and_not_once_per_alert(
    inbox: Inbox, ledger: Ledger, studyspot: Platform
) -> None:
    inbox.script("/v2/enqueue", status=429, headers={"Retry-After": "600"})
    tell.record(studyspot, run(1), [bad(f"check_{n}") for n in range(8)])
    asked = [event for event in inbox.events("pagerduty") if event["path"] == "/v2/enqueue"]
    assert len(asked) == 1
    assert len(inbox.slack()) == 8
    (row,) = ledger.rows(
        "select count(*) as waiting from outbox where channel = 'pagerduty' and next_attempt_at > now() + '9 min'"
    )
    assert row["waiting"] == 8


@pytest.mark.soak
def test_slack_that_posts_and_never_says_so_is_not_made_to_post_twice(
    inbox: Inbox, ledger: Ledger, studyspot: Platform, clock: Clock
) -> None:
    inbox.script("/api/chat.postMessage", accept=True, close=True, times=1)
    tell.record(studyspot, run(1), [bad()])
    clock.goes_on(2)
    tell.record(studyspot, run(2), [FINE])
    trigger, resolve = inbox.slack()
    # The thread of the first post is known all the same.
    assert resolve["thread_ts"] == trigger["ts"]
    assert [row["answer"].split(" ")[0] for row in ledger.rows(
        "select answer from deliveries as d join outbox as o on o.id = d.outbox_id"
        " where channel = 'slack' and delivered order by d.id")] == ["had", "posted"]  # fmt: skip


DELIVERS = """
import sys
from tests.dying import die_at
from upkeep.alerts import tell
from upkeep.ledger import Ledger, Run, outbox

die_at(outbox, "_delivered", count=int(sys.argv[2]))
with Ledger(sys.argv[1]) as ledger:
    tell.deliver_all(ledger, Run(platform="upkeep", dag_id="d", run_id="r", task_id="t"))
"""


def test_a_deliverer_killed_between_the_answer_and_its_commit_says_nothing_twice(
    inbox: Inbox, ledger: Ledger, ledger_conninfo: str, studyspot: Platform, clock: Clock
) -> None:
    # As if the task that found it had died before it told anybody.
    ledger.record(run(1), [bad()], partial(messages_for, studyspot))
    # First within the first message, then within the second.
    for killed, pending in ((1, 2), (2, 1)):
        done = subprocess.run(
            [sys.executable, "-c", DELIVERS, ledger_conninfo, str(killed)],
            cwd=REPOSITORY, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stderr
        (row,) = ledger.rows("select count(*) as n from outbox where state = 'pending'")
        assert row["n"] == pending, "told, and not on record"
    assert (len(inbox.slack()), len(inbox.incidents())) == (1, 1)
    clock.goes_on(3)
    (trigger,) = inbox.slack()
    assert [incident["key"] for incident in inbox.incidents()] == ["studyspot/redis_memory"]
    tell.record(studyspot, run(2), [FINE])
    assert inbox.slack()[1]["thread_ts"] == trigger["ts"]
    assert ledger.rows("select 1 from outbox where state <> 'delivered'") == []


def test_the_end_of_an_alert_stands_below_it_and_marks_it(inbox: Inbox, ledger: Ledger, studyspot: Platform) -> None:
    tell.record(studyspot, run(1), [bad()])
    tell.record(studyspot, run(2), [FINE])
    trigger, resolve = inbox.slack()
    assert resolve["thread_ts"] == trigger["ts"]
    assert trigger["reactions"] == ["white_check_mark"]
    # Back within the half hour: the same thread. Much later: a new one.
    tell.record(studyspot, run(3), [bad()])
    assert inbox.slack()[2]["thread_ts"] == trigger["ts"]
    tell.record(studyspot, run(4), [FINE])
    pass_time(ledger, 7200)
    tell.record(studyspot, run(5), [bad()])
    assert inbox.slack()[4]["thread_ts"] is None


def test_where_somebody_deleted_the_thread_a_new_one_begins(inbox: Inbox, ledger: Ledger, studyspot: Platform) -> None:
    tell.record(studyspot, run(1), [bad()])
    inbox.reset()
    tell.record(studyspot, run(2), [FINE])
    (resolve,) = inbox.slack()
    assert resolve["thread_ts"] is None
    # Back within the half hour.
    inbox.reset()
    tell.record(studyspot, run(3), [bad()])
    tell.record(studyspot, run(4), [FINE])
    trigger, resolve = inbox.slack()
    assert trigger["thread_ts"] is None
    assert resolve["thread_ts"] == trigger["ts"]


def test_a_slack_that_refuses_with_ratelimited_is_asked_again_when_it_said(
    inbox: Inbox, ledger: Ledger, studyspot: Platform, clock: Clock
) -> None:
    inbox.script("/api/chat.postMessage", error="ratelimited", headers={"Retry-After": "240"})
    tell.record(studyspot, run(1), [bad()])
    inbox.unscript()
    clock.goes_on(3)
    assert inbox.slack() == []
    clock.goes_on(2)
    assert len(inbox.slack()) == 1


def test_a_webhook_takes_the_place_of_the_bot(inbox: Inbox, ledger: Ledger, studyspot: Platform, clock: Clock) -> None:
    subject = altered(studyspot, webhook_conn_id="upkeep_slack_webhook")
    inbox.script("/services/*", status=429, headers={"Retry-After": "30"}, times=1)
    tell.record(subject, run(1), [bad()])
    clock.goes_on(1)
    tell.record(subject, run(2), [FINE])
    assert [(message["channel"], message["via"]) for message in inbox.slack()] == [("ops", "webhook")] * 2
    assert shown(inbox)[1].startswith("Resolved: ")


def test_a_page_that_is_refused_for_good_goes_by_mail(inbox: Inbox, ledger: Ledger, mailing: Platform) -> None:
    inbox.script("/v2/enqueue", status=400, body={"status": "invalid event", "message": "no", "errors": ["x"]})
    tell.record(mailing, run(1), [bad()])
    for n in range(3):
        tell.deliver_all(ledger, run(2 + n, platform="upkeep"))
    (mail,) = inbox.mails()
    assert "PagerDuty refused the page" in mail["body"]
    assert "mend it" in mail["body"]


def test_who_acknowledges_in_pagerduty_is_not_reminded(
    inbox: Inbox, ledger: Ledger, studyspot: Platform, clock: Clock
) -> None:
    tell.record(studyspot, run(1), [bad(severity=Severity.P0)])
    clock.goes_on(10, every_s=300)
    enqueue = inbox.events("pagerduty")[0]["body"] | {"event_action": "acknowledge"}
    post(inbox, "/v2/enqueue", enqueue)
    clock.goes_on(60, every_s=600)
    (row,) = ledger.rows("select acknowledged_at, acknowledged_by, reminders from findings")
    assert row["acknowledged_at"]
    assert row["reminders"] == 0
    assert len(inbox.slack()) == 1
    # Nobody is spared the resolution clock.
    clock.goes_on(60, every_s=600)
    assert "Not over after 2 h; it should be within 2 h." in shown(inbox)[1]


def post(inbox: Inbox, path: str, body: Any) -> None:
    import httpx

    httpx.post(f"{inbox.url}{path}", json=body, verify=False).raise_for_status()


def test_a_silence_keeps_quiet_records_and_tells_what_outlives_it(
    inbox: Inbox, ledger: Ledger, studyspot: Platform, clock: Clock
) -> None:
    from datetime import timedelta

    ledger.silence("studyspot", "redis_*", owner="jo", reason="failover test", length=timedelta(hours=1))
    tell.record(studyspot, run(1), [bad(), bad("http", "api")])
    assert actions(inbox) == [("trigger", "http/api")]
    assert len(ledger.rows("select 1 from findings where state = 'open'")) == 2
    assert len(ledger.rows("select 1 from outcomes")) == 2
    clock.goes_on(30, every_s=300)
    assert ("trigger", "redis_memory") not in actions(inbox)
    clock.goes_on(40, every_s=300)
    assert actions(inbox).count(("trigger", "redis_memory")) == 1
    tell.record(studyspot, run(2), [FINE])
    assert actions(inbox)[-1] == ("resolve", "redis_memory")


def test_personal_data_do_not_leave_and_numbers_do(inbox: Inbox, ledger: Ledger, studyspot: Platform) -> None:
    said = (
        "row of jane.doe@mail.example.com, +49 (30) 1234-5678, (415) 555-0100, card 4111 1111 1111 1111 from 10.1.2.3;"
        " 1234567890123456 bytes, lag 12,345,678, 2026-11-22 03:04:05, lsn 0/3000060"
    )
    tell.record(studyspot, run(1), [bad(said=said)])
    everything = json.dumps([inbox.pagerduty(), inbox.slack(), ledger.rows("select * from outcomes")], default=str)
    for secret in ("jane.doe", "1234-5678", "555-0100", "4111 1111"):
        assert secret not in everything
    (event,) = inbox.pagerduty()
    assert event["summary"].endswith(
        "row of (e-mail), (phone), (phone), card (card) from 10.1.2.3; 1234567890123456 bytes, lag 12,345,678,"
        " 2026-11-22 03:04:05, lsn 0/3000060"
    )
    tell.record(altered(studyspot, personal=("ip",)), run(2), [bad("other", said=said)])
    assert "from (address);" in inbox.pagerduty()[1]["summary"]
