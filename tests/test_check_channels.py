"""``python -m upkeep check`` on the ways to the outside: each lack is told with its cure, and nothing is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.sdk import Connection

from sandbox.home import Home
from sandbox.inboxes.client import Inbox
from tests import alerts_inbox
from upkeep.__main__ import _probe
from upkeep.doctor import channels, needs
from upkeep.doctor.verdict import MISSING
from upkeep.findings import Outcome
from upkeep.health.side_by_side import Probe
from upkeep.platforms import Platform, platform

inboxes, inbox = alerts_inbox.inboxes, alerts_inbox.inbox

STUDYSPOT = platform("studyspot")


def only(outcomes: list[Outcome]) -> tuple[str, str, str]:
    """State, what is said, and the cure."""
    (one,) = outcomes
    (finding,) = one.findings or (None,)
    if finding:
        return one.state, finding.summary, finding.hint
    return one.state, one.reason or str(one.facts.get("said", "")), str(one.facts.get("cure", ""))


def stored(home: Home, conn_id: str, **other: Any) -> Connection:
    return Connection.from_json(json.dumps({**home.state()["connections"][conn_id], **other}), conn_id=conn_id)


def test_the_rest_api_takes_a_token_and_a_name(inboxes: Home, inbox: Inbox) -> None:
    look, conn_id = channels.pagerduty_rest, "upkeep_pagerduty_rest"
    assert only(look(stored(inboxes, conn_id)))[0] == "ok"
    assert only(look(stored(inboxes, conn_id, password="wrong")))[:2] == ("finding", "PagerDuty answers 401")
    state, said, cure = only(look(stored(inboxes, conn_id, login="")))
    assert (state, "no sender" in said, "e-mail address" in cure) == ("finding", True, True)
    inbox.script("/abilities", status=503, times=1)
    assert only(look(stored(inboxes, conn_id)))[0] == "unknown"
    assert only(look(stored(inboxes, conn_id, host="https://127.0.0.1:1")))[0] == "unknown"
    assert inbox.incidents() == []


def test_the_mail_server_is_greeted_and_no_mail_is_sent(inboxes: Home, inbox: Inbox) -> None:
    assert only(channels.mail(stored(inboxes, "upkeep_smtp")))[0] == "ok"
    assert only(channels.mail(stored(inboxes, "upkeep_smtp", port=1)))[0] == "unknown"
    assert inbox.mails() == []


def test_an_optional_connection_that_is_missing_says_what_is_lost(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_UPKEEP_HEARTBEAT", raising=False)
    optional = {need.conn_id: need for need in needs.shared([STUDYSPOT]) if need.without}
    assert set(optional) == {"upkeep_pagerduty_rest", "upkeep_airflow_api", "upkeep_heartbeat"}
    missing = _probe(optional["upkeep_heartbeat"])
    assert isinstance(missing, Outcome)
    (finding,) = missing.findings
    assert "nobody notices when Upkeep itself has stopped" in finding.summary
    assert finding.hint.startswith("add it: HTTP")
    assert finding.severity != MISSING
    assert isinstance(_probe(optional["upkeep_pagerduty_rest"]), Probe)


def test_mail_is_needed_by_who_names_somebody() -> None:
    def kinds(subject: Platform) -> set[str]:
        return {need.kind for need in needs.shared([subject])}

    assert "smtp" not in kinds(STUDYSPOT)
    named = STUDYSPOT.alerts.model_copy(update={"email": ["jo@example.com"]})
    assert "smtp" in kinds(STUDYSPOT.model_copy(update={"alerts": named}))


def test_the_cdns_connection(inboxes: Home, inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    (need,) = [one for one in needs.own(STUDYSPOT) if one.kind == "cdn"]
    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_CDN", json.dumps(inboxes.state()["connections"]["studyspot_cdn"]))
    probe = _probe(need)
    assert isinstance(probe, Probe)
    (outcome,) = probe.look()
    assert outcome.state == "ok"
    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_CDN", '{"conn_type": "http", "extra": {"zone": "z"}}')
    lacking = _probe(need)
    assert isinstance(lacking, Outcome)
    assert "has no token" in lacking.findings[0].summary
    assert inbox.purged() == []
