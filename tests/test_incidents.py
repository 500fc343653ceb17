"""Incidents against the inboxes: one record, one page, one channel, whatever happens half-way."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from sandbox.inboxes.client import Inbox
from tests import alerts_inbox
from tests.alerts_inbox import altered
from tests.conftest import run
from upkeep.alerts import tell
from upkeep.findings import Severity
from upkeep.hooks import slack
from upkeep.incident import outside, review
from upkeep.incident.outside import archive, gather, page, pagerduty_client
from upkeep.incident.record import become, declare, find, note, tampered, timeline
from upkeep.incident.states import IncidentError
from upkeep.ledger import Ledger
from upkeep.platforms import Platform

inboxes, inbox, studyspot = alerts_inbox.inboxes, alerts_inbox.inbox, alerts_inbox.studyspot

TITLE = "Checkout answers 500"


def rest() -> Any:
    found = json.loads(os.environ["AIRFLOW_CONN_UPKEEP_PAGERDUTY_REST"])
    return pagerduty_client(found["host"], found["password"], found["login"])


def open_outside(ledger: Ledger, platform: Platform, id: str) -> None:
    """All that an incident has outside."""
    with rest() as client:
        incident = page(client, ledger, find(ledger, id), platform)
    gather(slack("upkeep_slack").client, ledger, incident, platform)


@pytest.fixture
def people(studyspot: Platform) -> Platform:
    return altered(studyspot, email=["oncall@example.com", "nobody@example.com", "dba@example.com"])


def test_an_incident_from_its_declaration_to_its_close(inbox: Inbox, ledger: Ledger, people: Platform) -> None:
    incident, new = declare(ledger, people, Severity.P0, TITLE, actor="jo", description="since the deployment of 4.2")
    assert (incident.id, new) == ("studyspot-1", True)
    assert declare(ledger, people, Severity.P0, TITLE, actor="max")[1] is False
    open_outside(ledger, people, incident.id)
    (paged,) = inbox.incidents()
    assert (paged["title"], paged["urgency"]) == ("StudySpot P1 Critical: Checkout answers 500", "high")
    channel = next(c for c in inbox.channels() if c["name"] == "inc-studyspot-1-checkout-answers-500")
    assert channel["topic"] == "studyspot-1 · StudySpot P1 Critical · open · Checkout answers 500"
    assert len(channel["members"]) == 3
    assert [message["pinned"] for message in channel["messages"]] == [True]
    become(ledger, incident.id, "acknowledged", actor="jo", review=True)
    note(ledger, incident.id, "jo", "note", "rolled 4.2 back, password=hunter2")
    become(ledger, incident.id, "resolved", actor="jo", review=True)
    with pytest.raises(IncidentError, match="an incident that is resolved cannot become closed"):
        become(ledger, incident.id, "closed", actor="jo", review=True)
    become(ledger, incident.id, "review", actor="jo", review=True)
    text = review.document(people, find(ledger, incident.id), timeline(ledger, incident.id))
    assert "# Review: Checkout answers 500" in text
    assert "| resolved | 0 min | 120 min |" in text or "| resolved | 0 min | 2 h 00 min |" in text
    assert "rolled 4.2 back, password=\\*\\*\\*" in text
    become(ledger, incident.id, "closed", actor="jo", review=True)
    for _ in range(2):
        archive(slack("upkeep_slack").client, ledger, find(ledger, incident.id))
    assert next(c for c in inbox.channels() if c["id"] == channel["id"])["archived"]
    kinds = [row["kind"] for row in timeline(ledger, incident.id)]
    assert kinds == [
        "declared", "pagerduty", "slack", "slack topic", "slack people", "slack summary", "acknowledged", "note",
        "resolved", "review", "closed", "slack archived",
    ]  # fmt: skip
    assert tampered(ledger, incident.id) is None


def test_the_timeline_cannot_be_changed_and_a_forged_line_shows(ledger: Ledger, studyspot: Platform) -> None:
    incident, _ = declare(ledger, studyspot, Severity.P1, TITLE, actor="jo")
    for n in range(3):
        note(ledger, incident.id, "jo", "note", f"line {n}")
    for change in ("update timeline set said = 'nothing'", "delete from timeline", "truncate timeline"):
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            ledger.connection.execute(change)
    ledger.connection.execute("alter table timeline disable trigger timeline_append_only")
    ledger.connection.execute("update timeline set said = 'nothing happened' where number = 3")
    assert tampered(ledger, incident.id) == 3


def test_an_attempt_that_heard_no_answer_is_adopted(inbox: Inbox, ledger: Ledger, studyspot: Platform) -> None:
    incident, _ = declare(ledger, studyspot, Severity.P0, TITLE, actor="jo")
    paths = (
        "/incidents",
        "/api/conversations.create",
        "/api/conversations.setTopic",
        "/api/chat.postMessage",
        "/api/pins.add",
    )
    for path in paths:
        inbox.script(path, accept=True, close=True, times=1)
    for _ in range(12):
        try:
            open_outside(ledger, studyspot, incident.id)
            break
        except Exception as lost:
            print(type(lost).__name__, lost)
    assert len(inbox.incidents()) == 1
    assert len([c for c in inbox.channels() if c["name"].startswith("inc-")]) == 1
    assert len([m for m in inbox.slack() if m["channel"].startswith("inc-")]) == 1
    kinds = [row["kind"] for row in timeline(ledger, incident.id)]
    assert len(kinds) == len(set(kinds))


STEPS: dict[str, tuple[Any, str]] = {
    "before the page is remembered": (outside, "reached"),
    "before the page is noted": (outside, "note"),
    "before the channel is made": (outside, "_channel"),
    "before people are invited": (outside, "topic"),
    "before the summary": (outside, "_summary"),
}


FEW = ("before the page is remembered", "before the summary")
"""What is tried at every change; the rest in the soak."""


@pytest.mark.parametrize(
    "step", [step if step in FEW else pytest.param(step, marks=pytest.mark.soak) for step in STEPS]
)
def test_killed_at_any_step_and_run_again_there_is_one_of_everything(
    inbox: Inbox, ledger: Ledger, ledger_conninfo: str, studyspot: Platform, step: str
) -> None:
    incident, _ = declare(ledger, studyspot, Severity.P0, TITLE, actor="jo")
    module, name = STEPS[step]

    def killed() -> None:
        def die(*_: Any, **__: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(module, name, die)
        with Ledger(ledger_conninfo) as mine:
            open_outside(mine, studyspot, incident.id)

    child = multiprocessing.get_context("fork").Process(target=killed)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert "slack summary" not in {row["kind"] for row in timeline(ledger, incident.id)}
    for _ in range(2):
        open_outside(ledger, studyspot, incident.id)
    assert len(inbox.incidents()) == 1
    (channel,) = [c for c in inbox.channels() if c["name"].startswith("inc-")]
    assert len(channel["messages"]) == 1
    done = find(ledger, incident.id)
    assert done.pagerduty_id == inbox.incidents()[0]["id"]
    assert done.channel_id == channel["id"]
    assert tampered(ledger, incident.id) is None


def test_a_sender_that_pagerduty_does_not_know_is_said_with_its_cure(
    inbox: Inbox, ledger: Ledger, studyspot: Platform
) -> None:
    with pytest.raises(IncidentError, match=r"has no sender, got ''\nHINT: its login is the e-mail address"):
        pagerduty_client("", "x", "")
    found = json.loads(os.environ["AIRFLOW_CONN_UPKEEP_PAGERDUTY_REST"])
    incident, _ = declare(ledger, studyspot, Severity.P1, TITLE, actor="jo")
    with (
        pagerduty_client(found["host"], found["password"], "who@example.com") as client,
        pytest.raises(IncidentError, match=r"PagerDuty answers 400: .*Requester User Not Found"),
    ):
        page(client, ledger, incident, studyspot)


NASTY: dict[str, str] = {
    "quotes": "say \"hi\" \\ 'there' $(rm -rf /)",
    "newlines": "line one\nline two\r\n",
    "emoji": "🔥🔥 düster ☃",
    "calls": "<!here> <!channel> @channel <@U123> <https://evil.example|click>",
    "megabyte": "x" * 1_000_000,
    "nul": "a\0b",
    "nothing": "",
    "markdown": "# head | cell *bold* <script>",
}


@pytest.mark.parametrize("name", NASTY)
def test_hostile_titles_are_delivered_whole_or_cut_and_never_interpreted(
    inbox: Inbox, ledger: Ledger, studyspot: Platform, name: str
) -> None:
    incident, _ = declare(ledger, studyspot, Severity.P1, NASTY[name], actor=NASTY[name], description=NASTY[name])
    open_outside(ledger, studyspot, incident.id)
    (message,) = [m for m in inbox.slack() if m["channel"].startswith("inc-")]
    assert not message["mentions"]
    assert len(inbox.incidents()) == 1
    assert tampered(ledger, incident.id) is None
    text = review.document(studyspot, find(ledger, incident.id), timeline(ledger, incident.id))
    assert "<script>" not in text
    assert len(text) < 20_000


def test_many_who_declare_the_same_at_once_get_one_incident(
    ledger_conninfo: str, ledger: Ledger, studyspot: Platform
) -> None:
    def declares() -> None:
        with Ledger(ledger_conninfo) as mine:
            incident, _ = declare(mine, studyspot, Severity.P1, TITLE, actor="jo")
            note(mine, incident.id, "jo", "note", f"by {os.getpid()} at {datetime.now(UTC)}")

    children = [multiprocessing.get_context("fork").Process(target=declares) for _ in range(8)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 8
    assert len(ledger.rows("select 1 from incidents")) == 1
    assert len(timeline(ledger, "studyspot-1")) == 9
    assert tampered(ledger, "studyspot-1") is None


def test_the_clocks_of_an_incident_are_heard_in_its_channel_and_by_mail_also_while_pagerduty_is_down(
    inbox: Inbox, ledger: Ledger, people: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tell, "platforms", lambda: [people])
    incident, _ = declare(ledger, people, Severity.P0, TITLE, actor="jo")
    gather(slack("upkeep_slack").client, ledger, incident, people)
    inbox.script("/v2/*", status=503)
    for minutes in range(0, 45, 5):
        tell.deliver_all(ledger, run(minutes, platform="upkeep"))
        ledger.connection.execute("update incidents set declared_at = declared_at - interval '5 minutes'")
    own = [m["text"] for m in inbox.slack() if m["channel"].startswith("inc-")][1:]
    assert own[0].startswith("Nobody has acknowledged studyspot-1 for 15 min; it should be within 15 min.")
    assert own[1].startswith("Nobody has acknowledged studyspot-1 for 30 min")
    assert own[2].startswith("studyspot-1 is open for 30 min. Say how it stands.")
    assert len(own) == 3
    assert [m["channel"] for m in inbox.slack()].count("studyspot-ops") == 1
    assert [mail["subject"] for mail in inbox.mails()] == [
        "Nobody has acknowledged studyspot-1 for 30 min; it should be within 15 min. Checkout answers 500"
    ]
    kinds = [row["kind"] for row in timeline(ledger, incident.id)]
    assert kinds.count("unacknowledged") == 2
