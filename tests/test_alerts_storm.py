"""Many alerts at once become one; what a known cause explains or somebody silenced calls nobody."""

from __future__ import annotations

import multiprocessing
import time

import pytest

from sandbox.inboxes.client import Inbox
from tests import alerts_inbox
from tests.alerts_inbox import actions, bad, pass_time, shown
from tests.conftest import run
from upkeep.alerts import tell
from upkeep.findings import Severity, ok
from upkeep.ledger import Ledger
from upkeep.platforms import Platform

inboxes, inbox, studyspot = alerts_inbox.inboxes, alerts_inbox.inbox, alerts_inbox.studyspot

ALL = ok("pods", Severity.P1)


def test_one_look_that_finds_many_things_pages_once_and_names_them(
    inbox: Inbox, ledger: Ledger, studyspot: Platform
) -> None:
    tell.record(studyspot, run(1), [bad("pods", f"p{n}") for n in range(25)] + [bad("http", "api", Severity.P0, "500")])
    assert actions(inbox) == [("trigger", "storm")]
    (message,) = inbox.slack()
    assert "26 alerts within 5 min, told as one: pods (25), http (1); the worst: http/api: 500" in message["text"]
    (event,) = inbox.pagerduty()
    assert event["severity"] == "critical"
    assert "P1 pods/p7: broken" in event["body"]["payload"]["custom_details"]["numbers"]["members"]
    # Some of them end, and nobody is told; all of them, and it is said once.
    tell.record(studyspot, run(2), [bad("pods", f"p{n}") for n in range(3)])
    tell.record(studyspot, run(3), [ok("pods", Severity.P1, object="p9"), ok("http", Severity.P0)])
    assert len(inbox.slack()) == 1
    tell.record(studyspot, run(4), [ALL])
    tell.record(studyspot, run(5), [ALL])
    assert actions(inbox) == [("trigger", "storm"), ("resolve", "storm")]
    assert len(inbox.slack()) == 2
    assert ledger.rows("select 1 from findings where state = 'open'") == []


def test_the_umbrellas_message_grows_where_it_stands(inbox: Inbox, ledger: Ledger, studyspot: Platform) -> None:
    tell.record(studyspot, run(1), [bad("pods", f"p{n}") for n in range(12)])
    tell.record(studyspot, run(2), [bad("pods", f"p{n}") for n in range(40)])
    for n in range(3):
        tell.deliver_all(ledger, run(3 + n, platform="upkeep"))
    (message,) = inbox.slack()
    assert "40 alerts within 5 min" in message["text"]
    assert len(ledger.rows("select 1 from outbox where event = 'update'")) == 1


def test_an_alert_long_after_the_storm_began_is_told_by_itself(
    inbox: Inbox, ledger: Ledger, studyspot: Platform
) -> None:
    tell.record(studyspot, run(1), [bad("pods", f"p{n}") for n in range(25)])
    pass_time(ledger, 600)
    tell.record(studyspot, run(2), [bad("http", "api", Severity.P0)])
    assert actions(inbox) == [("trigger", "storm"), ("trigger", "http/api")]


def callbacks(platform: Platform, numbers: range, fails: bool) -> None:
    """What so many callbacks do, one after the other, in a process of its own."""
    for n in numbers:
        outcome = bad("run", f"dag_{n}") if fails else ok("run", Severity.P1, object=f"dag_{n}")
        tell.record(platform, run(n, task="(run)"), [outcome])


def from_processes(platform: Platform, processes: int, failures: int, *, fails: bool) -> None:
    share = failures // processes
    forked = multiprocessing.get_context("fork")
    children = [
        forked.Process(target=callbacks, args=(platform, range(n * share, (n + 1) * share), fails))
        for n in range(processes)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * processes


@pytest.mark.parametrize(
    ("processes", "failures"), [(2, 40), pytest.param(8, 504, marks=pytest.mark.soak)], ids=["40", "504"]
)
def test_a_storm_of_failures_is_one_umbrella_and_few_messages(
    inbox: Inbox, ledger: Ledger, studyspot: Platform, processes: int, failures: int
) -> None:
    began = time.monotonic()
    from_processes(studyspot, processes, failures, fails=True)
    assert time.monotonic() - began < 60
    tell.deliver_all(ledger, run(1, platform="upkeep"))
    triggers = [key for action, key in actions(inbox) if action == "trigger"]
    assert triggers.count("storm") == 1
    assert len(triggers) == len(set(triggers)) == studyspot.alerts.storm + 1
    assert len(ledger.rows("select 1 from findings where state = 'open' and check_name = 'run'")) == failures
    from_processes(studyspot, processes, failures, fails=False)
    tell.deliver_all(ledger, run(2, platform="upkeep"))
    assert sorted(key for action, key in actions(inbox) if action == "resolve") == sorted(triggers)
    assert len(inbox.slack()) <= 20
    assert ledger.rows("select 1 from findings where state = 'open'") == []
    assert len(ledger.rows("select 1 from outcomes")) == 2 * failures


def test_what_the_database_explains_is_told_only_when_it_outlives_it(
    inbox: Inbox, ledger: Ledger, studyspot: Platform
) -> None:
    down, api = bad("postgres_connect", severity=Severity.P0, said="refused"), bad("http", "api", Severity.P0, "500")
    tell.record(studyspot, run(1), [down, api])
    assert actions(inbox) == [("trigger", "postgres_connect")]
    assert len(ledger.rows("select 1 from findings where state = 'open'")) == 2
    tell.deliver_all(ledger, run(2, platform="upkeep"))
    assert len(inbox.pagerduty()) == 1
    # The database is back, the API is not: now it is news.
    tell.record(studyspot, run(3), [ok("postgres_connect", Severity.P0), api])
    tell.deliver_all(ledger, run(4, platform="upkeep"))
    assert actions(inbox)[1:] == [("resolve", "postgres_connect"), ("trigger", "http/api")]
    tell.record(studyspot, run(5), [ok("http", Severity.P0)])
    assert actions(inbox)[3:] == [("resolve", "http/api")]


def test_what_the_database_explains_and_ends_with_it_is_never_told(
    inbox: Inbox, ledger: Ledger, studyspot: Platform
) -> None:
    tell.record(studyspot, run(1), [bad("postgres_connect"), bad("http", "api")])
    tell.record(studyspot, run(2), [ok("postgres_connect", Severity.P0), ok("http", Severity.P0)])
    tell.deliver_all(ledger, run(3, platform="upkeep"))
    assert actions(inbox) == [("trigger", "postgres_connect"), ("resolve", "postgres_connect")]
    assert len(shown(inbox)) == 2
