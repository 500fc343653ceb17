"""The sandbox's PagerDuty and Slack: the official clients work against them, and they refuse what the real ones do."""

from __future__ import annotations

import functools
import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pagerduty
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from slack_sdk.webhook import WebhookClient

from sandbox import processes
from sandbox.faults import break_it, heal_it
from sandbox.home import Home, SandboxError
from sandbox.inboxes.client import Inbox
from sandbox.inboxes.mrkdwn import to_html
from sandbox.servers.inboxes import start_inboxes, stop_inboxes


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("inboxes"))
    start_inboxes(home)
    yield home
    stop_inboxes(home)


@pytest.fixture
def inbox(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """Empty inboxes that behave well; the official clients trust them."""
    monkeypatch.setenv("SSL_CERT_FILE", str(home.path / "certificates" / "trust.pem"))
    start_inboxes(home)
    inbox = Inbox(home)
    inbox.reset()
    yield inbox
    start_inboxes(home)
    inbox.reset()


def connection(home: Home, conn_id: str) -> dict[str, Any]:
    return dict(home.state()["connections"][conn_id])


@pytest.fixture
def events(home: Home, inbox: Inbox) -> Iterator[pagerduty.EventsApiV2Client]:
    published = connection(home, "upkeep_pagerduty_events")
    with pagerduty.EventsApiV2Client(published["password"], base_url=published["host"]) as client:
        yield client


@pytest.fixture
def slack(home: Home, inbox: Inbox) -> WebClient:
    published = connection(home, "upkeep_slack")
    return WebClient(published["password"], base_url=published["extra"]["base_url"], timeout=5)


@functools.cache
def trusting(home: Home) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(home.path / "certificates" / "ca.pem"))


def ask(
    home: Home, method: str, path: str, body: Any = None, *, timeout: float = 3.0, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """Status, decoded body and headers of one request, without any client's own retries."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(Inbox(home).url + path, data=raw, method=method, headers=headers)
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=timeout, context=trusting(home)) as answer:
            status, text, given = answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as refused:
        status, text, given = refused.code, refused.read().decode(), dict(refused.headers)
    try:
        return status, json.loads(text), given
    except ValueError:
        return status, text, given


def event(home: Home, **changed: Any) -> dict[str, Any]:
    """A valid trigger; ``changed`` replaces keys, None removes them, ``payload`` is merged."""
    payload = {"summary": "disk full", "source": "studyspot", "severity": "error", **changed.pop("payload", {})}
    made = {
        "routing_key": connection(home, "upkeep_pagerduty_events")["password"],
        "event_action": "trigger",
        "dedup_key": "studyspot:disk",
        "payload": {key: value for key, value in payload.items() if value is not None},
        **changed,
    }
    return {key: value for key, value in made.items() if value is not None}


# -- PagerDuty: Events API v2 ------------------------------------------------------------------------------


def test_the_official_client_triggers_acknowledges_and_resolves_one_incident(
    events: pagerduty.EventsApiV2Client, inbox: Inbox
) -> None:
    key = events.trigger("disk full", "studyspot", dedup_key="studyspot:disk", severity="error")
    assert key == "studyspot:disk"
    events.trigger("disk fuller", "studyspot", dedup_key=key, severity="error")
    events.acknowledge(key)
    [incident] = inbox.incidents()
    assert (incident["state"], incident["alerts"], incident["title"]) == ("acknowledged", 2, "disk full")
    events.trigger("disk fuller still", "studyspot", dedup_key=key)
    assert inbox.incidents()[0]["state"] == "acknowledged"
    events.resolve(key)
    events.resolve(key)
    [incident] = inbox.incidents()
    assert [entry["what"] for entry in incident["log"]] == [
        "triggered",
        "triggered",
        "acknowledged",
        "triggered",
        "resolved",
    ]
    assert [sent["action"] for sent in inbox.pagerduty()].count("resolve") == 2
    assert inbox.pagerduty()[-1]["incident"] is None, "the second resolve met nothing open"


def test_a_key_that_was_resolved_opens_a_new_incident(events: pagerduty.EventsApiV2Client, inbox: Inbox) -> None:
    for _ in range(2):
        events.trigger("disk full", "studyspot", dedup_key="k")
        events.resolve("k")
    assert [incident["state"] for incident in inbox.incidents()] == ["resolved", "resolved"]


def test_without_a_key_every_trigger_is_an_incident_of_its_own(
    events: pagerduty.EventsApiV2Client, inbox: Inbox
) -> None:
    assert events.trigger("disk full", "studyspot") != events.trigger("disk full", "studyspot")
    assert len(inbox.incidents()) == 2


def test_change_events_page_nobody(events: pagerduty.EventsApiV2Client, inbox: Inbox) -> None:
    events.send_change_event(payload={"summary": "vacuumed 3 tables", "source": "upkeep"})
    assert [change["payload"]["summary"] for change in inbox.changes()] == ["vacuumed 3 tables"]
    assert inbox.incidents() == []


def test_routing_keys_lead_to_services_of_their_own(home: Home, inbox: Inbox) -> None:
    keys = home.facts("inboxes")["routing_keys"]
    for name in ("studyspot", "adaptive_learning"):
        assert ask(home, "POST", "/v2/enqueue", event(home, routing_key=keys[name]))[0] == 202
    assert [incident["service"] for incident in inbox.incidents()] == ["studyspot", "adaptive_learning"]


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"routing_key": None}, "'routing_key' is missing or blank"),
        ({"routing_key": "short"}, "Length of 'routing_key' is incorrect (should be 32 characters)"),
        ({"routing_key": "-" * 32}, "'routing_key' cannot contain non-alphanumeric characters."),
        ({"event_action": None}, "'event_action' is missing or blank"),
        (
            {"event_action": "page"},
            "'event_action' is invalid (must be one of the following: 'trigger', 'acknowledge' or 'resolve')",
        ),
        ({"event_action": "resolve", "dedup_key": None}, "'dedup_key' is missing or blank"),
        ({"event_action": "acknowledge", "dedup_key": ""}, "'dedup_key' is missing or blank"),
        ({"dedup_key": "k" * 256}, "'dedup_key' is too long (maximum is 255 characters)"),
        ({"payload": {"summary": None}}, "'payload.summary' is missing or blank"),
        ({"payload": {"summary": ""}}, "'payload.summary' is missing or blank"),
        ({"payload": {"summary": "s" * 1025}}, "'payload.summary' is too long (maximum is 1024 characters)"),
        ({"payload": {"source": None}}, "'payload.source' is missing or blank"),
        (
            {"payload": {"severity": "P0"}},
            "'payload.severity' is invalid (must be one of the following: 'critical', 'warning', 'error' or 'info')",
        ),
        ({"images": [{"src": "http://plain"}]}, "'images.0.src' is invalid (must be a valid URL with https)"),
        ({"links": [{"text": "no address"}]}, "'links.0.href' is missing or blank"),
    ],
)
def test_an_invalid_event_is_refused_with_the_reason(
    home: Home, inbox: Inbox, changed: dict[str, Any], error: str
) -> None:
    status, body, _ = ask(home, "POST", "/v2/enqueue", event(home, **changed))
    assert (status, body["status"], body["message"]) == (400, "invalid event", "Event object is invalid")
    assert error in body["errors"]
    assert inbox.incidents() == []
    [arrived] = inbox.events()
    assert (arrived["accepted"], arrived["status"]) == (False, 400)


def test_the_longest_valid_event_is_accepted(home: Home, inbox: Inbox) -> None:
    longest = event(home, dedup_key="k" * 255, payload={"summary": "s" * 1024})
    assert ask(home, "POST", "/v2/enqueue", longest)[0] == 202


def test_half_a_megabyte_is_too_much(home: Home, inbox: Inbox) -> None:
    large = event(home, payload={"custom_details": {"log": "x" * 512 * 1024}})
    assert ask(home, "POST", "/v2/enqueue", large)[0] == 413


def test_a_routing_key_that_nobody_made_is_refused(home: Home, inbox: Inbox) -> None:
    assert ask(home, "POST", "/v2/enqueue", event(home, routing_key="0" * 32))[:2] == (400, "Invalid routing key")


# -- PagerDuty: REST ---------------------------------------------------------------------------------------


@pytest.fixture
def rest(home: Home, inbox: Inbox) -> Iterator[pagerduty.RestApiV2Client]:
    published = connection(home, "upkeep_pagerduty_rest")
    with pagerduty.RestApiV2Client(
        published["password"], default_from=published["login"], base_url=published["host"]
    ) as client:
        yield client


def declared(rest: pagerduty.RestApiV2Client, key: str) -> dict[str, Any]:
    service = rest.list_all("services")[0]
    return {
        "type": "incident",
        "title": "API down",
        "service": {"id": service["id"], "type": "service_reference"},
        "incident_key": key,
    }


def test_an_incident_is_declared_once_found_by_its_key_and_resolved(
    rest: pagerduty.RestApiV2Client, inbox: Inbox
) -> None:
    made = rest.rpost("incidents", json=declared(rest, "inc-1"))
    assert [found["id"] for found in rest.list_all("incidents", params={"incident_key": "inc-1"})] == [made["id"]]
    refused = rest.post("incidents", json={"incident": declared(rest, "inc-1")})
    assert refused.status_code == 400
    assert "Open incident with matching dedup key already exists" in refused.json()["error"]["errors"][0]
    rest.rput(f"incidents/{made['id']}", json={"type": "incident_reference", "status": "resolved"})
    rest.rpost(f"incidents/{made['id']}/notes", json={"content": "it was the proxy"})
    assert rest.rpost("incidents", json=declared(rest, "inc-1"))["id"] != made["id"]
    assert [incident["state"] for incident in inbox.incidents()] == ["resolved", "triggered"]
    assert rest.list_all("incidents", params={"incident_key": "nobody"}) == []


def test_an_event_and_rest_see_the_same_incident(
    events: pagerduty.EventsApiV2Client, rest: pagerduty.RestApiV2Client
) -> None:
    events.trigger("disk full", "studyspot", dedup_key="studyspot:disk")
    [found] = rest.list_all("incidents", params={"incident_key": "studyspot:disk", "statuses[]": ["triggered"]})
    assert (found["status"], found["alert_counts"]["all"]) == ("triggered", 1)


def test_rest_needs_a_token_and_a_known_sender(home: Home, inbox: Inbox) -> None:
    token = connection(home, "upkeep_pagerduty_rest")["password"]
    incident = {"incident": {"type": "incident", "title": "x", "service": {"id": "P"}}}
    assert ask(home, "POST", "/incidents", incident)[0] == 401
    assert ask(home, "GET", "/incidents", Authorization="Token token=wrong")[0] == 401
    status, body, _ = ask(home, "POST", "/incidents", incident, Authorization=f"Token token={token}")
    assert (status, body["error"]["message"]) == (400, "Requester User Not Found")


# -- Slack -------------------------------------------------------------------------------------------------


def refused(call: Any, **arguments: Any) -> str:
    """Slack's error; it comes with status 200."""
    with pytest.raises(SlackApiError) as caught:
        call(**arguments)
    assert caught.value.response.status_code == 200
    return str(caught.value.response["error"])


def test_the_official_client_posts_answers_in_the_thread_and_updates(slack: WebClient, inbox: Inbox) -> None:
    assert slack.auth_test()["user"] == "upkeep"
    blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": "*disk full*"}}]
    head = slack.chat_postMessage(channel="#ops", text="disk full", blocks=blocks)
    slack.chat_postMessage(channel=head["channel"], text="still", thread_ts=head["ts"])
    slack.chat_update(channel=head["channel"], ts=head["ts"], text="disk full, resolved")
    first, second = inbox.slack()
    assert (first["channel"], first["text"], first["blocks"]) == ("ops", "disk full, resolved", [])
    assert first["edited"]
    assert second["thread_ts"] == first["ts"]
    replies = slack.conversations_replies(channel=head["channel"], ts=head["ts"])["messages"]
    assert [reply["text"] for reply in replies] == ["disk full, resolved", "still"]


def test_metadata_is_found_again_only_by_those_who_ask_for_it(slack: WebClient, inbox: Inbox) -> None:
    metadata = {"event_type": "upkeep_alert", "event_payload": {"dedup_key": "studyspot:disk"}}
    channel = slack.chat_postMessage(channel="#ops", text="disk full", metadata=metadata)["channel"]
    [found] = slack.conversations_history(channel=channel, include_all_metadata=True)["messages"]
    assert found["metadata"] == metadata
    [found] = slack.conversations_history(channel=channel)["messages"]
    assert "metadata" not in found


def test_a_wrong_token_is_refused_with_status_200(home: Home, inbox: Inbox) -> None:
    base = connection(home, "upkeep_slack")["extra"]["base_url"]
    assert refused(WebClient("xoxb-wrong", base_url=base).auth_test) == "invalid_auth"
    assert ask(home, "POST", "/api/auth.test")[:2] == (200, {"ok": False, "error": "not_authed"})


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"channel": "#nowhere", "text": "x"}, "channel_not_found"),
        ({"channel": "#general", "text": "x"}, "not_in_channel"),
        ({"channel": "#ops", "text": ""}, "no_text"),
        ({"channel": "#ops", "text": "x" * 40_001}, "msg_too_long"),
        ({"channel": "#ops", "text": "x", "thread_ts": "1.000001"}, "cannot_reply_to_message"),
        ({"channel": "#ops", "text": "x", "metadata": {"event_type": "x"}}, "invalid_metadata_format"),
        ({"channel": "#ops", "text": "x", "blocks": [{"type": "divider"}] * 51}, "invalid_blocks"),
        ({"channel": "#ops", "text": "x", "blocks": [{"type": "marquee"}]}, "invalid_blocks"),
    ],
)
def test_a_message_that_slack_would_refuse_is_refused(
    slack: WebClient, inbox: Inbox, arguments: dict[str, Any], error: str
) -> None:
    assert refused(slack.chat_postMessage, **arguments) == error
    assert inbox.slack() == []


def section(**content: Any) -> dict[str, Any]:
    return {"type": "section", **content}


def mrkdwn(characters: int) -> dict[str, str]:
    return {"type": "mrkdwn", "text": "x" * characters}


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (section(text=mrkdwn(3001)), "must be less than 3001 characters [json-pointer:/blocks/0/text/text]"),
        (section(text=mrkdwn(0)), "must be more than 0 characters [json-pointer:/blocks/0/text/text]"),
        (section(fields=[mrkdwn(1)] * 11), "no more than 10 items allowed [json-pointer:/blocks/0/fields]"),
        (section(fields=[mrkdwn(2001)]), "must be less than 2001 characters [json-pointer:/blocks/0/fields/0/text]"),
        (section(), "missing required field: text [json-pointer:/blocks/0]"),
        (
            {"type": "header", "text": mrkdwn(5)},
            "must be a valid enum value: plain_text [json-pointer:/blocks/0/text/type]",
        ),
        (
            {"type": "header", "text": {"type": "plain_text", "text": "x" * 151}},
            "must be less than 151 characters [json-pointer:/blocks/0/text/text]",
        ),
        ({"type": "context", "elements": []}, "[json-pointer:/blocks/0/elements]"),
    ],
)
def test_invalid_blocks_come_back_with_a_pointer(
    slack: WebClient, inbox: Inbox, block: dict[str, Any], message: str
) -> None:
    with pytest.raises(SlackApiError) as caught:
        slack.chat_postMessage(channel="#ops", text="x", blocks=[block])
    assert caught.value.response["error"] == "invalid_blocks"
    assert any(message in said for said in caught.value.response["response_metadata"]["messages"])


def test_blocks_at_their_limits_are_accepted_and_too_much_of_them_is_not(slack: WebClient, inbox: Inbox) -> None:
    slack.chat_postMessage(channel="#ops", text="x", blocks=[section(text=mrkdwn(3000))] * 4)
    slack.chat_postMessage(channel="#ops", text="x", blocks=[section(fields=[mrkdwn(100)] * 10)])
    slack.chat_postMessage(channel="#ops", text="x", blocks=[{"type": "divider"}] * 50)
    too_much = [section(text=mrkdwn(3000))] * 5
    assert refused(slack.chat_postMessage, channel="#ops", text="x", blocks=too_much) == "msg_blocks_too_long"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("Incident", "invalid_name_specials"),
        ("inc 1", "invalid_name_specials"),
        ("inc.1", "invalid_name_specials"),
        ("--", "invalid_name_punctuation"),
        ("i" * 81, "invalid_name_maxlength"),
        ("", "invalid_name_required"),
        ("ops", "name_taken"),
    ],
)
def test_channel_names_follow_slacks_rules(slack: WebClient, inbox: Inbox, name: str, error: str) -> None:
    assert refused(slack.conversations_create, name=name) == error


def test_an_incident_channel_lives_from_creation_to_archive(slack: WebClient, inbox: Inbox) -> None:
    channel = slack.conversations_create(name="inc-1")["channel"]["id"]
    user = slack.users_lookupByEmail(email="oncall@example.com")["user"]["id"]
    slack.conversations_invite(channel=channel, users=[user])
    assert refused(slack.conversations_invite, channel=channel, users=[user]) == "already_in_channel"
    assert refused(slack.conversations_invite, channel=channel, users=["U404"]) == "user_not_found"
    slack.conversations_setTopic(channel=channel, topic="P0: API down")
    assert refused(slack.conversations_setTopic, channel=channel, topic="x" * 251) == "too_long"
    slack.conversations_archive(channel=channel)
    assert refused(slack.conversations_archive, channel=channel) == "already_archived"
    assert refused(slack.chat_postMessage, channel=channel, text="late") == "is_archived"
    assert refused(slack.conversations_create, name="inc-1") == "name_taken", "an archived name stays taken"
    adopted = {c["name"]: c for page in slack.conversations_list(limit=2) for c in page["channels"]}["inc-1"]
    assert (adopted["id"], adopted["is_archived"]) == (channel, True)
    [kept] = [c for c in inbox.channels() if c["name"] == "inc-1"]
    assert (kept["topic"], kept["archived"], user in kept["members"]) == ("P0: API down", True, True)


@pytest.mark.parametrize(
    ("message", "called"),
    [
        ({"text": "<!here> <!channel> <@U0123>"}, ["@here", "@channel", "@U0123"]),
        ({"text": "&lt;!here&gt; @channel"}, []),
        ({"text": "@channel", "link_names": True}, ["@channel"]),
        ({"text": "@everyone", "parse": "full"}, ["@everyone"]),
        ({"text": "x", "blocks": [section(text={"type": "mrkdwn", "text": "<!everyone>"})]}, ["@everyone"]),
        ({"text": "x", "blocks": [section(text={"type": "plain_text", "text": "<!everyone>"})]}, []),
    ],
)
def test_it_says_whom_a_message_calls(
    slack: WebClient, inbox: Inbox, message: dict[str, Any], called: list[str]
) -> None:
    slack.chat_postMessage(channel="#ops", **message)
    assert inbox.slack()[0]["mentions"] == called


def test_a_webhook_posts_to_its_own_channel_whatever_the_message_asks_for(home: Home, inbox: Inbox) -> None:
    published = connection(home, "upkeep_slack_webhook")
    webhook = WebhookClient(f"{published['host']}/{published['password']}")
    answer = webhook.send_dict({"text": "digest", "channel": "#incidents", "username": "root"})
    assert (answer.status_code, answer.body) == (200, "ok")
    [message] = inbox.slack()
    assert (message["channel"], message["via"]) == ("ops", "webhook")
    assert webhook.send(text="").body == "no_text"
    assert webhook.send(text="x", blocks=[{"type": "marquee"}]).status_code == 400
    assert WebhookClient(f"{published['host']}/T0/B0/wrong").send(text="x").status_code == 404


# -- misbehaving -------------------------------------------------------------------------------------------


def test_scripted_answers_last_as_long_as_asked_for(home: Home, inbox: Inbox) -> None:
    inbox.script("/v2/enqueue", status=429, times=2, headers={"Retry-After": "7"})
    inbox.script("/v2/enqueue", name="then", status=500, times=1)
    answers = [ask(home, "POST", "/v2/enqueue", event(home)) for _ in range(4)]
    assert [status for status, *_ in answers] == [429, 429, 500, 202]
    assert answers[0][2]["Retry-After"] == "7"
    assert [incident["alerts"] for incident in inbox.incidents()] == [1], "what was refused has no effect"
    assert [arrived["accepted"] for arrived in inbox.events()] == [False, False, False, True]


def test_accept_then_silence_has_its_effect_though_the_sender_never_hears_of_it(
    home: Home, slack: WebClient, inbox: Inbox
) -> None:
    inbox.script("/api/chat.postMessage", accept=True, hang_s=30, times=1)
    slack.timeout = 1
    with pytest.raises((TimeoutError, OSError)):
        slack.chat_postMessage(channel="#ops", text="once")
    assert [message["text"] for message in inbox.slack()] == ["once"]
    inbox.script("/v2/enqueue", accept=True, close=True, times=1)
    with pytest.raises((urllib.error.URLError, ConnectionError, OSError)):
        ask(home, "POST", "/v2/enqueue", event(home))
    assert len(inbox.pagerduty()) == 1
    assert inbox.events("pagerduty")[0]["status"] is None


def test_a_closed_connection_has_no_effect_unless_it_was_asked_for(home: Home, inbox: Inbox) -> None:
    inbox.script("/v2/enqueue", close=True, times=1)
    with pytest.raises((urllib.error.URLError, ConnectionError, OSError)):
        ask(home, "POST", "/v2/enqueue", event(home))
    assert inbox.pagerduty() == []
    assert len(inbox.events()) == 1


def test_slack_limits_the_rate_of_each_channel(slack: WebClient, inbox: Inbox) -> None:
    inbox.script("/api/chat.postMessage", name="rate", every_s=30)
    slack.chat_postMessage(channel="#ops", text="first")
    slack.chat_postMessage(channel="#incidents", text="another channel")
    with pytest.raises(SlackApiError) as limited:
        slack.chat_postMessage(channel="#ops", text="second")
    assert limited.value.response.status_code == 429
    assert limited.value.response["error"] == "ratelimited"
    assert 28 <= int(limited.value.response.headers["Retry-After"]) <= 30
    inbox.unscript("rate")
    slack.chat_postMessage(channel="#ops", text="third")
    assert [message["text"] for message in inbox.slack()] == ["first", "another channel", "third"]


def test_slack_refuses_with_200_when_told_to(slack: WebClient, inbox: Inbox) -> None:
    inbox.script("/api/*", error="fatal_error", times=1)
    assert refused(slack.auth_test) == "fatal_error"
    assert slack.auth_test()["ok"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"path": "/x"}, "needs one of"),
        ({"path": "/x", "stauts": 500}, "no stauts in a script"),
        ({"path": "/x", "status": 500, "times": 0}, "at least 1"),
        ({"path": "/x", "status": 500, "service": "teams"}, "service is one of pagerduty, slack"),
        ({"path": 7}, '"path"'),
    ],
)
def test_a_script_that_means_nothing_is_refused(inbox: Inbox, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(SandboxError, match=said):
        inbox._ask("POST", "script", asked)


@pytest.mark.parametrize(
    ("fault", "path", "status"),
    [
        ("pagerduty_down", "/v2/enqueue", 503),
        ("pagerduty_ratelimited", "/v2/enqueue", 429),
        ("slack_down", "/api/auth.test", 503),
        ("slack_ratelimited", "/api/auth.test", 429),
    ],
)
def test_a_fault_answers_badly_and_heals(home: Home, inbox: Inbox, fault: str, path: str, status: int) -> None:
    token = connection(home, "upkeep_slack")["password"]
    assert ask(home, "POST", path, event(home), Authorization=f"Bearer {token}")[0] in (200, 202)
    break_it(home, fault)
    got, _, headers = ask(home, "POST", path, event(home), Authorization=f"Bearer {token}")
    assert got == status
    assert (headers.get("Retry-After") == "2") is (status == 429)
    other = "/v2/enqueue" if path.startswith("/api") else "/api/auth.test"
    assert ask(home, "POST", other, event(home), Authorization=f"Bearer {token}")[0] in (200, 202)
    heal_it(home, fault)
    assert ask(home, "POST", path, event(home), Authorization=f"Bearer {token}")[0] in (200, 202)


@pytest.mark.parametrize(
    ("fault", "path", "arrives"),
    [
        ("pagerduty_hangs", "/v2/enqueue", False),
        ("pagerduty_answers_nobody", "/v2/enqueue", True),
        ("slack_hangs", "/api/chat.postMessage", False),
        ("slack_answers_nobody", "/api/chat.postMessage", True),
    ],
)
def test_a_hanging_inbox_says_nothing(home: Home, inbox: Inbox, fault: str, path: str, arrives: bool) -> None:
    token = connection(home, "upkeep_slack")["password"]
    body = {**event(home), "channel": "#ops", "text": "x"}
    break_it(home, fault)
    with pytest.raises((TimeoutError, urllib.error.URLError)):
        ask(home, "POST", path, body, timeout=0.5, Authorization=f"Bearer {token}")
    assert bool(inbox.pagerduty() + inbox.slack()) is arrives
    heal_it(home, fault)
    assert ask(home, "POST", path, body, Authorization=f"Bearer {token}")[0] in (200, 202)


def test_slack_refuses_fault(home: Home, slack: WebClient, inbox: Inbox) -> None:
    break_it(home, "slack_refuses")
    assert refused(slack.chat_postMessage, channel="#ops", text="x") == "internal_error"
    heal_it(home, "slack_refuses")
    assert slack.chat_postMessage(channel="#ops", text="x")["ok"]


# -- what stays, and what people see -----------------------------------------------------------------------


def everything(inbox: Inbox) -> list[Any]:
    return [inbox.events(), inbox.pagerduty(), inbox.incidents(), inbox.changes(), inbox.channels(), inbox.scripts()]


def test_a_restart_keeps_all_that_arrived_and_all_that_was_scripted(
    home: Home, events: pagerduty.EventsApiV2Client, rest: pagerduty.RestApiV2Client, slack: WebClient, inbox: Inbox
) -> None:
    events.trigger("no key", "studyspot")
    events.trigger("disk full", "studyspot", dedup_key="k")
    events.resolve("k")
    events.send_change_event(payload={"summary": "changed"})
    rest.rpost("incidents", json=declared(rest, "inc-1"))
    channel = slack.conversations_create(name="inc-1")["channel"]["id"]
    for text in ("one", "two"):
        slack.chat_postMessage(channel=channel, text=text)
    assert refused(slack.chat_postMessage, channel="#nowhere", text="x") == "channel_not_found"
    inbox.script("/v2/enqueue", status=500, times=5)
    assert ask(home, "POST", "/v2/enqueue", event(home))[0] == 500
    before = everything(inbox)
    break_it(home, "inboxes_down")
    with pytest.raises(urllib.error.URLError, match="refused"):
        ask(home, "POST", "/v2/enqueue", event(home))
    heal_it(home, "inboxes_down")
    assert everything(inbox) == before
    assert inbox.scripts()[0]["used"] == 1
    slack.chat_postMessage(channel=channel, text="three")
    stamps = [message["ts"] for message in inbox.slack()]
    assert len(set(stamps)) == 3
    processes.stop(home, "inboxes", sig=9)
    start_inboxes(home)
    assert [message["text"] for message in inbox.slack()] == ["one", "two", "three"]


def test_a_half_written_journal_loses_its_last_line_alone(home: Home, inbox: Inbox) -> None:
    for key in ("a", "b"):
        ask(home, "POST", "/v2/enqueue", event(home, dedup_key=key))
    stop_inboxes(home)
    journal = home.path / "inboxes" / "journal.jsonl"
    journal.write_text(journal.read_text()[:-20])
    start_inboxes(home)
    assert [incident["key"] for incident in inbox.incidents()] == ["a"]
    ask(home, "POST", "/v2/enqueue", event(home, dedup_key="c"))
    stop_inboxes(home)
    start_inboxes(home)
    assert [incident["key"] for incident in inbox.incidents()] == ["a", "c"]


def test_secrets_of_headers_are_not_kept(home: Home, slack: WebClient, inbox: Inbox) -> None:
    slack.auth_test()
    token = connection(home, "upkeep_slack")["password"]
    ask(home, "POST", "/api/auth.test", {"token": token})
    assert [arrived["accepted"] for arrived in inbox.events()] == [True, True]
    assert token not in (home.path / "inboxes" / "journal.jsonl").read_text()
    assert (home.path / "inboxes" / "config.json").stat().st_mode & 0o077 == 0


def test_it_answers_for_the_european_region_and_by_every_name_it_pretends_to(home: Home, inbox: Inbox) -> None:
    for host in ("events.eu.pagerduty.com", "events.pagerduty.com", "slack.com", "hooks.slack.com"):
        assert home.state()["connect_to"][f"{host}:443"] == inbox.url.removeprefix("https://")
    ask(home, "POST", "/v2/enqueue", event(home), Host="events.eu.pagerduty.com")
    assert inbox.events()[0]["host"] == "events.eu.pagerduty.com"


def page(inbox: Inbox) -> str:
    with urllib.request.urlopen(inbox.page_url, timeout=5) as answer:
        return str(answer.read().decode())


def test_the_page_shows_what_arrived_and_runs_none_of_it(
    events: pagerduty.EventsApiV2Client, slack: WebClient, inbox: Inbox
) -> None:
    assert "Nobody was paged." in page(inbox)
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    events.trigger(hostile, hostile, dedup_key="k", links=[{"href": "javascript:alert(3)", "text": hostile}])
    button = {"type": "button", "text": {"type": "plain_text", "text": "Open run"}, "url": "https://airflow.example/r"}
    blocks = [
        section(text={"type": "mrkdwn", "text": f"*bold* {hostile} <javascript:alert(4)|x> <https://x.example|link>"}),
        {"type": "actions", "elements": [button]},
    ]
    slack.chat_postMessage(channel="#ops", text=hostile, blocks=blocks)
    shown = page(inbox)
    assert shown.count("<script>") == 1, "the page's own"
    assert "<img" not in shown
    assert 'href="javascript:' not in shown
    assert "<strong>bold</strong>" in shown
    assert '<a href="https://x.example" rel="noreferrer">link</a>' in shown
    assert "Open run</a>" in shown
    assert "1 triggered" in shown
    assert 'src="http' not in shown, "nothing is fetched from outside"


def test_the_page_is_served_without_tls_but_takes_nothing(inbox: Inbox) -> None:
    for path in ("/v2/enqueue", "/_sandbox/reset", "/_sandbox/script"):
        request = urllib.request.Request(inbox.page_url + path, data=b"{}", method="POST")
        with pytest.raises(urllib.error.HTTPError) as refused_:
            urllib.request.urlopen(request, timeout=5)
        assert refused_.value.code in (404, 405)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("*<https://x.example|run>*", '<strong><a href="https://x.example" rel="noreferrer">run</a></strong>'),
        ("snake_case_name 2*3*4", "snake_case_name 2*3*4"),
        ("`*code*` &lt;b&gt; &copy;", "<code>*code*</code> &lt;b&gt; &amp;copy;"),
        ("<!here> <#C1|ops>", '<span class="call">@here</span> <span class="call">#ops</span>'),
        (":warning: :nosuch:", "⚠️ :nosuch:"),
        ("```a\nb```", "<pre>a\nb</pre>"),
        ("<b>", "&lt;b&gt;"),
    ],
)
def test_mrkdwn_is_shown_as_slack_shows_it(text: str, shown: str) -> None:
    assert to_html(text) == shown


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        "channel",
        "text",
        "blocks",
        "metadata",
        "thread_ts",
        "name",
        "users",
        "topic",
        "limit",
        "cursor",
        "oldest",
        "ts",
        "email",
        "payload",
        "incident",
        "note",
        "message",
        "event_action",
        "dedup_key",
        "routing_key",
        "links",
        "images",
        "type",
        "elements",
        "fields",
    ]
)
PATHS = [
    "/v2/enqueue",
    "/v2/change/enqueue",
    "/incidents",
    "/incidents/1/notes",
    "/incidents/x",
    "/api/chat.postMessage",
    "/api/chat.update",
    "/api/conversations.create",
    "/api/conversations.history",
    "/api/conversations.replies",
    "/api/conversations.list",
    "/api/conversations.invite",
    "/api/conversations.setTopic",
    "/api/reactions.add",
    "/api/users.lookupByEmail",
    "/api/nosuch",
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(PATHS),
    body=st.dictionaries(KEYS, ANYTHING | st.just("#ops") | st.lists(st.fixed_dictionaries({"type": ANYTHING}))),
)
def test_whatever_is_sent_there_is_an_answer_and_a_page(home: Home, inbox: Inbox, path: str, body: Any) -> None:
    published = home.state()["connections"]
    bearer = published["upkeep_slack"] if path.startswith("/api") else published["upkeep_pagerduty_rest"]
    if path.startswith("/v2"):
        body = {**event(home), **body}
    status, *_ = ask(home, "POST", path, body, Authorization=f"Bearer {bearer['password']}", From="upkeep@example.com")
    assert status < 500
    assert "Everything that arrived" in page(inbox)


def test_five_hundred_alerts_are_taken_within_seconds(home: Home, inbox: Inbox) -> None:
    client = http.client.HTTPSConnection(inbox.url.removeprefix("https://"), context=trusting(home), timeout=5)
    began = time.monotonic()
    for number in range(500):
        client.request("POST", "/v2/enqueue", json.dumps(event(home, dedup_key=f"k{number}")))
        answer = client.getresponse()
        assert (answer.status, json.load(answer)["dedup_key"]) == (202, f"k{number}")
    assert time.monotonic() - began < 20
    client.close()
    assert len(inbox.incidents()) == 500
    assert "500 requests, the latest 100" in page(inbox)


def test_starting_twice_keeps_the_first_and_its_keys(home: Home, inbox: Inbox, tmp_path: Path) -> None:
    before = processes.running(home, "inboxes"), home.state()["connections"]
    start_inboxes(home)
    assert (processes.running(home, "inboxes"), home.state()["connections"]) == before
    with pytest.raises(SandboxError, match="HINT"):
        Inbox(Home(tmp_path))
