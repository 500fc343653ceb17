"""Alerts against inboxes that speak PagerDuty's and Slack's wire formats, with every path broken once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import __main__ as sandbox
from sandbox.home import Home
from sandbox.inboxes.client import Inbox
from sandbox.servers import prepare
from sandbox.servers.inboxes import start_inboxes, stop_inboxes
from tests.conftest import run
from upkeep.alerts import spool, tell
from upkeep.alerts.callbacks import run_failed, run_succeeded
from upkeep.alerts.messages import cut, dedup_key, escape
from upkeep.alerts.redact import redact
from upkeep.errors import LedgerError, SettingsError
from upkeep.findings import Finding, Outcome, Severity, judged, ok, unknown
from upkeep.ledger import Ledger
from upkeep.platforms import Platform, platform
from upkeep.settings import settings


@pytest.fixture(scope="module")
def inboxes() -> Iterator[Home]:
    with sandbox.temporary() as home:
        prepare(home, scale=0.02)
        start_inboxes(home)
        yield home


@pytest.fixture
def inbox(inboxes: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """Empty inboxes behind Upkeep's connections, and an empty spool."""
    for conn_id in ("upkeep_pagerduty_events", "upkeep_slack"):
        connection = inboxes.state()["connections"][conn_id]
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))
    monkeypatch.setenv("SSL_CERT_FILE", str(inboxes.path / "certificates" / "trust.pem"))
    monkeypatch.setenv("UPKEEP_SPOOL", str(tmp_path / "spool"))
    settings.cache_clear()
    start_inboxes(inboxes)
    found = Inbox(inboxes)
    found.reset()
    yield found
    settings.cache_clear()


@pytest.fixture
def studyspot() -> Platform:
    return platform("studyspot")


def finding(
    severity: Severity = Severity.P1, summary: str = "62 of 64 MiB in use", check: str = "redis_memory"
) -> Outcome:
    found = Finding(check=check, severity=severity, summary=summary, hint="delete big keys", facts={"bytes": 62})
    return judged(check, Severity.P1, [found])


FINE = ok("redis_memory", Severity.P1)


def actions(inbox: Inbox) -> list[tuple[str, str]]:
    return [(event["action"], event["dedup_key"]) for event in inbox.pagerduty()]


def test_a_finding_pages_once_and_its_repair_resolves_once(inbox: Inbox, ledger: Ledger, studyspot: Platform) -> None:
    for n, outcome in enumerate([finding(), finding(), FINE, FINE]):
        tell.record(studyspot, run(n), [outcome])
    key = "studyspot/redis_memory"
    assert actions(inbox) == [("trigger", key), ("resolve", key)]
    trigger = inbox.pagerduty()[0]["body"]
    assert trigger["payload"]["severity"] == "error"
    assert "62 of 64 MiB in use" in trigger["payload"]["summary"]
    assert trigger["payload"]["custom_details"]["what to do"] == "delete big keys"
    assert {link["text"] for link in trigger["links"]} == {"Task log", "Dag run"}
    first, second = inbox.slack()
    assert first["channel"] == studyspot.alerts.channel.removeprefix("#")
    assert "https://airflow.example/log" in json.dumps(first["blocks"])
    assert "https://airflow.example/run" in json.dumps(first["blocks"])
    assert second["text"].startswith("Resolved: ")


@pytest.mark.parametrize(
    ("severity", "pages", "posts"),
    [(Severity.P0, 1, 1), (Severity.P1, 1, 1), (Severity.P2, 0, 1), (Severity.P3, 0, 0), (Severity.P4, 0, 0)],
)
def test_who_is_told_follows_the_severity(
    inbox: Inbox, ledger: Ledger, studyspot: Platform, severity: Severity, pages: int, posts: int
) -> None:
    tell.record(studyspot, run(), [finding(severity)])
    assert (len(inbox.pagerduty()), len(inbox.slack())) == (pages, posts)
    tell.record(studyspot, run(2), [FINE])
    assert (len(inbox.pagerduty()), len(inbox.slack())) == (2 * pages, 2 * posts)


@pytest.mark.parametrize("fact", [0, 3, None, [], {"a": 1}, "x", 2.5])
def test_whatever_a_finding_counts_it_is_told(inbox: Inbox, ledger: Ledger, studyspot: Platform, fact: Any) -> None:
    """A consumer group's `members` are a number, a storm's are a list."""
    facts = {"members": fact, "alerts": fact, "severity": fact}
    behind = Finding(check="kafka_lag", severity=Severity.P1, summary="far behind", hint="look", facts=facts)
    tell.record(studyspot, run(), [judged("kafka_lag", Severity.P1, [behind])])
    assert [event["action"] for event in inbox.pagerduty()] == ["trigger"]
    assert len(inbox.slack()) == 1


def test_a_finding_that_gets_bad_enough_pages_then(inbox: Inbox, ledger: Ledger, studyspot: Platform) -> None:
    for n, severity in enumerate([Severity.P3, Severity.P2, Severity.P1, Severity.P0, Severity.P2]):
        tell.record(studyspot, run(n), [finding(severity)])
    assert [event["action"] for event in inbox.pagerduty()] == ["trigger"]
    assert len(inbox.slack()) == 1
    tell.record(studyspot, run(9), [FINE])
    assert [event["action"] for event in inbox.pagerduty()] == ["trigger", "resolve"]


def test_what_nobody_could_look_at_alerts_with_the_severity_of_its_check(
    inbox: Inbox, ledger: Ledger, studyspot: Platform
) -> None:
    tell.record(studyspot, run(), [unknown("pods", Severity.P1, "the API answered 500")])
    (event,) = inbox.pagerduty()
    assert "could not look: the API answered 500" in event["summary"]


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 429, "headers": {"Retry-After": "1"}},
        {"close": True},
        {"hang_s": 30},
        {"status": 503},
    ],
    ids=["500", "429", "reset", "hang", "503"],
)  # fmt: skip
def test_an_alert_that_cannot_be_delivered_at_once_is_delivered_later_and_once(
    inbox: Inbox, ledger: Ledger, studyspot: Platform, fault: dict[str, Any]
) -> None:
    inbox.script("/v2/enqueue", **fault)
    inbox.script("/api/chat.postMessage", **fault)
    began = time.monotonic()
    tell.record(studyspot, run(), [finding()])
    assert time.monotonic() - began < 12
    assert (inbox.pagerduty(), inbox.slack()) == ([], [])
    inbox.unscript()
    ledger.connection.execute("update outbox set next_attempt_at = clock_timestamp()")
    for n in range(3):
        tell.deliver_all(ledger, run(n, platform="upkeep"))
    assert [event["action"] for event in inbox.pagerduty()] == ["trigger"]
    assert len(inbox.slack()) == 1


def test_a_refused_event_is_not_sent_for_ever_and_slack_still_hears(
    inbox: Inbox, ledger: Ledger, studyspot: Platform
) -> None:
    inbox.script("/v2/enqueue", status=400, body={"status": "invalid event", "message": "no", "errors": ["x"]})
    tell.record(studyspot, run(), [finding()])
    (row,) = ledger.rows("select state, attempts from outbox where channel = 'pagerduty'")
    assert row == {"state": "failed", "attempts": 1}
    assert len(inbox.slack()) == 1


def test_a_slack_that_says_no_with_status_200_is_not_taken_for_a_yes(
    inbox: Inbox, ledger: Ledger, studyspot: Platform
) -> None:
    inbox.script("/api/chat.postMessage", error="channel_not_found")
    tell.record(studyspot, run(), [finding()])
    (row,) = ledger.rows("select o.state, d.answer from outbox as o join deliveries as d on d.outbox_id = o.id"
                         " where channel = 'slack'")  # fmt: skip
    assert row == {"state": "pending", "answer": "200 channel_not_found"}


def test_a_missing_slack_connection_does_not_stop_the_page(
    inbox: Inbox, ledger: Ledger, studyspot: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_UPKEEP_SLACK")
    tell.record(studyspot, run(), [finding()])
    assert len(inbox.pagerduty()) == 1
    (row,) = ledger.rows("select answer from deliveries where not delivered")
    assert row["answer"] == "no connection 'upkeep_slack'"


NASTY = {
    "quotes": "say \"hi\" \\ 'there'",
    "newline": "line one\nline two\r\n\ttabbed",
    "emoji": "🔥🔥 düster ☃",
    "channel": "<!channel> <!here> @channel <@U123> & <https://evil.example|click>",
    "megabyte": "x" * 1_000_000,
    "nul": "a\0b",
    "markdown": "*bold* _it_ `code` ~no~",
}


@pytest.mark.parametrize("name", NASTY)
def test_hostile_text_arrives_whole_or_cut_with_notice_and_is_never_interpreted(
    inbox: Inbox, ledger: Ledger, studyspot: Platform, name: str
) -> None:
    tell.record(studyspot, run(), [finding(summary=NASTY[name])])
    (event,) = inbox.pagerduty()
    (message,) = inbox.slack()
    shown = " ".join(NASTY[name].replace("\0", "�").split())
    assert shown in event["summary"] or "characters)" in event["summary"]
    assert not message["mentions"]
    assert escape(shown) in message["text"] or "characters)" in message["text"]


def test_secrets_do_not_leave(inbox: Inbox, ledger: Ledger, studyspot: Platform) -> None:
    said = (
        "connect to postgresql://upkeep:hunter2@db/x failed, password=hunter2 token: 'hunter2' xoxb-1234-hunter2hunter2"
    )
    tell.record(studyspot, run(), [finding(summary=said), unknown("pods", Severity.P1, said)])
    everything = json.dumps([inbox.pagerduty(), inbox.slack(), ledger.rows("select * from outcomes")], default=str)
    assert "hunter2" not in everything
    assert "***" in everything


def test_redaction_leaves_plain_words_alone() -> None:
    plain = "8 of 10 connections; https://airflow.example/log?x=1; key studyspot/http/api; 12 tokens left"
    assert redact(plain) == plain


def test_with_the_ledger_down_the_page_goes_out_and_the_rest_waits_in_the_spool(
    inbox: Inbox, ledger_conninfo: str, studyspot: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = json.loads(os.environ["AIRFLOW_CONN_UPKEEP_LEDGER"])
    monkeypatch.setenv("AIRFLOW_CONN_UPKEEP_LEDGER", json.dumps({**good, "port": 1}))
    with pytest.raises(LedgerError, match=r"HINT: "):
        tell.record(studyspot, run(), [finding()])
    assert actions(inbox) == [("trigger", "studyspot/ledger"), ("trigger", "studyspot/redis_memory")] or actions(
        inbox
    ) == [
        ("trigger", "studyspot/redis_memory"),
        ("trigger", "studyspot/ledger"),
    ]
    assert len(spool.waiting(settings().spool)) == 1
    # The ledger is back: Slack hears what it missed, PagerDuty is not told twice, and "ledger" is resolved once.
    monkeypatch.setenv("AIRFLOW_CONN_UPKEEP_LEDGER", json.dumps(good))
    with Ledger(ledger_conninfo) as ledger:
        for n in range(2):
            tell.deliver_all(ledger, run(n, platform="upkeep"))
        tell.record(studyspot, run(5), [FINE])
    assert sorted(actions(inbox)) == sorted(
        [(action, f"studyspot/{check}") for check in ("ledger", "redis_memory") for action in ("trigger", "resolve")]
    )
    assert spool.waiting(settings().spool) == []
    assert any("redis_memory" in message["text"] for message in inbox.slack())


def test_without_a_ledger_connection_the_page_goes_out_all_the_same(
    inbox: Inbox, studyspot: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_UPKEEP_LEDGER", raising=False)
    with pytest.raises(SettingsError, match=r"no connection 'upkeep_ledger'\nHINT: add it"):
        tell.record(studyspot, run(), [finding()])
    assert sorted(actions(inbox)) == [("trigger", "studyspot/ledger"), ("trigger", "studyspot/redis_memory")]
    assert len(spool.waiting(settings().spool)) == 1


def test_what_waited_in_the_spool_while_it_was_mended_opens_nothing(
    inbox: Inbox, ledger: Ledger, studyspot: Platform
) -> None:
    old = finding()
    tell.record(studyspot, run(2), [ok("redis_memory", Severity.P1)])
    spool.put(settings().spool, run(1), [old])
    tell.deliver_all(ledger, run(3, platform="upkeep"))
    assert ledger.rows("select 1 from findings") == []


def test_an_unreadable_spool_file_is_put_aside_and_the_others_are_taken_in(
    inbox: Inbox, ledger: Ledger, studyspot: Platform
) -> None:
    directory = settings().spool
    spool.put(directory, run(1), [finding()])
    (directory / "0.json").write_text('{"run": ')
    assert tell.deliver_all(ledger, run(2, platform="upkeep"))["taken in"] == 1
    assert (directory / "0.unreadable").read_text() == '{"run": '


def test_inboxes_that_are_down_cost_a_task_seconds_not_its_outcome(
    inbox: Inbox, inboxes: Home, ledger: Ledger, studyspot: Platform
) -> None:
    stop_inboxes(inboxes)
    began = time.monotonic()
    changes = tell.record(studyspot, run(), [finding(), finding(check="redis_hit_rate")])
    assert time.monotonic() - began < 12
    assert len(changes) == 2
    assert len(ledger.rows("select 1 from outbox where state = 'pending'")) == 4


class TaskInstance:
    """What a Dag-level callback sees of the last task, without a supervisor (as in ``dag.test``)."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.log_url = "https://airflow.example/log"


def context(task_id: str, number: int = 1) -> dict[str, Any]:
    from airflow.sdk import DAG, BaseOperator

    with DAG("studyspot_daily_maintenance", schedule=None) as dag:
        BaseOperator(task_id=task_id)
    return {
        "dag": dag, "run_id": f"manual__{number}", "ti": TaskInstance(task_id), "reason": "task_failure",
        "exception": RuntimeError("password=hunter2 is wrong"),
    }  # fmt: skip


def test_a_failed_run_alerts_once_over_seven_runs_and_the_next_green_one_resolves(inbox: Inbox, ledger: Ledger) -> None:
    for n in range(7):
        run_failed(context("logs", n), platform_name="studyspot")
    run_succeeded(context("logs", 8), platform_name="studyspot")
    key = "studyspot/run/studyspot_daily_maintenance"
    assert actions(inbox) == [("trigger", key), ("resolve", key)]
    assert "logs" in inbox.pagerduty()[0]["summary"]
    assert "hunter2" not in json.dumps(inbox.pagerduty())


def test_a_failed_run_that_a_finding_explains_is_not_told_twice(
    inbox: Inbox, ledger: Ledger, studyspot: Platform
) -> None:
    tell.record(studyspot, run(1, task="health"), [finding()])
    run_failed(context("health"), platform_name="studyspot")
    assert actions(inbox) == [("trigger", "studyspot/redis_memory")]
    # … but a task that crashed beside it is.
    run_failed(context("logs"), platform_name="studyspot")
    assert ("trigger", "studyspot/run/studyspot_daily_maintenance") in actions(inbox)


def test_an_unknown_platform_is_named_with_those_there_are() -> None:
    with pytest.raises(
        SettingsError, match=r"no platform 'shop'; there are: adaptive_learning, studyspot\nHINT: add shop.yaml"
    ):
        platform("shop")


def test_keys_and_texts_keep_within_the_limits_of_the_services() -> None:
    long = "studyspot/pods/" + "x" * 400
    assert len(dedup_key(long)) == 255
    assert dedup_key(long) != dedup_key(long + "y")
    assert len(cut("x" * 5000, 3000)) == 3000
