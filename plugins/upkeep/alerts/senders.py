"""One bounded attempt to deliver a message, by the official clients."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from upkeep.alerts import mail
from upkeep.alerts.messages import dedup_key
from upkeep.alerts.redact import redact
from upkeep.errors import SettingsError
from upkeep.ledger import Ledger
from upkeep.ledger.outbox import Delivered, Message, NotDelivered, Thread
from upkeep.platforms import Platform

log = logging.getLogger(__name__)

REST = "upkeep_pagerduty_rest"
"""Connection of PagerDuty's REST API; without it nobody's acknowledgement is seen."""

TIMEOUT_S = 4

MALFORMED = (
    "invalid_blocks", "msg_too_long", "msg_blocks_too_long", "no_text", "invalid_arguments", "invalid_payload",
    "too_many_attachments", "invalid_blocks_format",
)  # fmt: skip
"""What Slack says about a message that no later attempt can mend."""

DOWN = (
    "ratelimited",
    "internal_error",
    "fatal_error",
    "service_unavailable",
    "request_timeout",
    "team_access_not_granted",
)
"""What Slack says whatever it is asked."""

GONE = ("thread_not_found", "message_not_found", "cannot_reply_to_message", "cant_update_message", "is_archived")
"""What Slack says when the message that began a thread was deleted, or its channel archived."""


def send(message: Message) -> str:
    """
    Deliver over the message's channel; return what the channel answered.

    :raises NotDelivered: no confirmation; ``permanent`` when the message itself was refused.
    """
    senders = {"pagerduty": _pagerduty, "slack": _slack, "email": mail.send}
    try:
        return senders[message.channel](message)
    except SettingsError as missing:
        # The connection may be added later: the message waits for it.
        raise NotDelivered(missing.message) from missing


def _pagerduty(message: Message) -> str:
    import pagerduty

    from upkeep.connections import connection
    from upkeep.hooks import PagerdutyEventsHook

    connection(message.payload["conn_id"])
    event = dict(message.payload["event"])
    try:
        client = PagerdutyEventsHook(message.payload["conn_id"]).get_conn()
        if message.event == "change":
            client.send_change_event(**event)
            return "accepted"
        # The key is the same at every attempt: what was accepted without a word is not opened twice.
        key = client.send_event(event.pop("action"), **event)
    except pagerduty.Error as refused:
        status, answer, after = _answer(refused)
        # 400: the payload is wrong and stays wrong. Everything else may pass.
        raise NotDelivered(
            answer, permanent=status in (400, 413), retry_after_s=after, down=status not in (400, 413)
        ) from refused
    return f"accepted {key}"


def _answer(refused: Any) -> tuple[int | None, str, float | None]:
    response = getattr(refused, "response", None)
    if response is None:
        return None, str(refused), None
    return response.status_code, f"{response.status_code} {response.text[:500]}", _seconds(response.headers)


def acknowledgements(ledger: Ledger, platform: Platform) -> int:
    """
    Take over who has acknowledged what in PagerDuty, so that nobody is reminded of what somebody works on.

    Asked by REST, where the connection ``upkeep_pagerduty_rest`` exists; returns how many are new.
    """
    import httpx

    from upkeep.connections import connection

    rows = ledger.rows(
        "select key from findings where platform = %s and state = 'open' and acknowledged_at is null"
        " and severity <= %s and held = '' order by severity, opened_at limit 20",
        [platform.name, platform.severity.paging.value],
    )
    if not rows:
        return 0
    try:
        found = connection(REST)
    except SettingsError:
        return 0
    new = 0
    headers = {"Authorization": f"Token token={found.password}", "Accept": "application/json"}
    host = found.host or "https://api.pagerduty.com"
    try:
        with httpx.Client(base_url=host if "://" in host else f"https://{host}", headers=headers, timeout=3) as client:
            for row in rows:
                asked = {"incident_key": dedup_key(row["key"]), "statuses[]": "acknowledged", "limit": "1"}
                for incident in client.get("/incidents", params=asked).raise_for_status().json()["incidents"]:
                    who = [one["acknowledger"]["summary"] for one in incident.get("acknowledgements") or []]
                    new += ledger.acknowledge(row["key"], who[0] if who else "somebody in PagerDuty")
    except (httpx.HTTPError, ValueError, KeyError) as away:
        log.warning("PagerDuty does not say who has acknowledged what: %s", redact(str(away)))
    return new


# -- Slack ---------------------------------------------------------------------------------------------------


def _slack(message: Message) -> str:
    from slack_sdk.errors import SlackApiError, SlackClientError

    from upkeep.connections import connection
    from upkeep.hooks import slack, slack_webhook

    conn_id = message.payload["conn_id"]
    connection(conn_id)
    try:
        if message.payload.get("webhook"):
            return _webhook(slack_webhook(conn_id), message)
        return _posted(slack(conn_id).client, message)
    except SlackApiError as refused:
        status, said = refused.response.status_code, str(refused.response.get("error", refused))
        raise NotDelivered(
            f"{status} {said}",
            permanent=said in MALFORMED,
            retry_after_s=_seconds(refused.response.headers),
            down=status != 200 or said in DOWN,
        ) from refused
    except (SlackClientError, OSError) as away:
        raise NotDelivered(f"{type(away).__name__}: {redact(str(away))}", down=True) from away


def _posted(client: Any, message: Message) -> str:
    """A trigger begins a thread, what follows goes below it; where somebody deleted it, a new one begins."""
    from slack_sdk.errors import SlackApiError

    thread = message.thread if message.event != "trigger" or message.payload.get("joins") else None
    try:
        return _post(client, message, thread)
    except SlackApiError as refused:
        if thread is None or refused.response.get("error") not in GONE:
            raise
        return _post(client, message, None)


def _post(client: Any, message: Message, thread: Thread | None) -> str:
    body = dict(message.payload["message"])
    body["metadata"] = _marked(body["metadata"], message)
    if message.attempts and (posted := _posted_already(client, message, thread)):
        return posted
    if message.event == "update":
        if thread:
            client.chat_update(**{**body, "channel": thread.channel_id, "ts": thread.ts})
        return "updated"
    if thread:
        body |= {"thread_ts": thread.ts, "reply_broadcast": message.event in ("trigger", "remind")}
    answer = client.chat_postMessage(**body)
    if thread and message.event == "resolve":
        _tick(client, thread)
    return _delivered(f"posted {answer['ts']}", thread or Thread(answer["channel"], answer["ts"]))


def _marked(metadata: dict[str, Any], message: Message) -> dict[str, Any]:
    return {**metadata, "event_payload": {**metadata["event_payload"], "delivery": str(message.id)}}


def _posted_already(client: Any, message: Message, thread: Thread | None) -> str:
    """Slack knows no idempotency key: what may have been posted by an attempt without an answer is looked for."""
    from slack_sdk.errors import SlackApiError

    channel = thread.channel_id if thread else message.payload["message"]["channel"]
    look = {"oldest": str(message.created_s - 1), "limit": 200, "include_all_metadata": True}
    try:
        if thread:
            found = client.conversations_replies(channel=channel, ts=thread.ts, **look)
        else:
            channel = _channel_id(client, channel)
            found = client.conversations_history(channel=channel, **look)
    except SlackApiError as refused:
        # Without the right to look (channels:history) a second message is the lesser evil than none.
        if refused.response.get("error") in ("missing_scope", "channel_not_found", "not_in_channel"):
            return ""
        raise
    for one in found["messages"]:
        if one.get("metadata", {}).get("event_payload", {}).get("delivery") == str(message.id):
            return _delivered(f"had been posted {one['ts']}", thread or Thread(channel, one["ts"]))
    return ""


def _channel_id(client: Any, name: str) -> str:
    """History is asked by id, messages are posted by name."""
    cursor = ""
    for _ in range(20):
        page = client.conversations_list(exclude_archived=True, limit=1000, cursor=cursor)
        for channel in page["channels"]:
            if channel["name"] == name.removeprefix("#"):
                return str(channel["id"])
        cursor = page.get("response_metadata", {}).get("next_cursor", "")
        if not cursor:
            break
    return name


def _tick(client: Any, thread: Thread) -> None:
    """Who scrolls by sees that it is over; worth nothing if it fails."""
    from slack_sdk.errors import SlackApiError, SlackClientError

    with contextlib.suppress(SlackApiError, SlackClientError, OSError):
        client.reactions_add(channel=thread.channel_id, timestamp=thread.ts, name="white_check_mark")


def _delivered(said: str, thread: Thread) -> Delivered:
    answer = Delivered(said)
    answer.thread = thread
    return answer


def _webhook(client: Any, message: Message) -> str:
    """One channel, no threads, no metadata; what was accepted without a word may arrive twice."""
    if message.event == "update":
        return "a webhook cannot update"
    body = message.payload["message"]
    answer = client.send(text=body["text"], blocks=body["blocks"], unfurl_links=False)
    if answer.status_code == 200:
        return "posted"
    raise NotDelivered(
        f"{answer.status_code} {answer.body[:500]}",
        permanent=answer.body in MALFORMED,
        retry_after_s=_seconds(answer.headers),
        down=answer.status_code == 429 or answer.status_code >= 500,
    )


def _seconds(headers: Any) -> float | None:
    for name in ("Retry-After", "retry-after", "ratelimit-reset"):
        try:
            return float(headers[name])
        except (KeyError, TypeError, ValueError):
            continue
    return None
