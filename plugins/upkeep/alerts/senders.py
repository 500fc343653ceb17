"""One bounded attempt to deliver a message, by the official clients."""

from __future__ import annotations

from typing import Any

from upkeep.errors import SettingsError
from upkeep.ledger.outbox import Message, NotDelivered


def send(message: Message) -> str:
    """
    Deliver over the message's channel; return what the channel answered.

    :raises NotDelivered: no confirmation; ``permanent`` when the message itself was refused.
    """
    try:
        return _pagerduty(message) if message.channel == "pagerduty" else _slack(message)
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
        key = PagerdutyEventsHook(message.payload["conn_id"]).get_conn().send_event(event.pop("action"), **event)
    except pagerduty.Error as refused:
        status, answer, after = _answer(refused)
        # 400: the payload is wrong and stays wrong. Everything else may pass.
        raise NotDelivered(answer, permanent=status == 400, retry_after_s=after) from refused
    return f"accepted {key}"


def _answer(refused: Any) -> tuple[int | None, str, float | None]:
    response = getattr(refused, "response", None)
    if response is None:
        return None, str(refused), None
    return response.status_code, f"{response.status_code} {response.text[:500]}", _seconds(response.headers)


def _slack(message: Message) -> str:
    from slack_sdk.errors import SlackApiError, SlackClientError

    from upkeep.connections import connection
    from upkeep.hooks import slack

    connection(message.payload["conn_id"])
    try:
        answer = slack(message.payload["conn_id"]).client.chat_postMessage(**message.payload["message"])
    except SlackApiError as refused:
        said = str(refused.response.get("error", refused))
        raise NotDelivered(
            f"{refused.response.status_code} {said}",
            permanent=said in ("invalid_blocks", "msg_too_long", "msg_blocks_too_long", "no_text", "invalid_arguments"),
            retry_after_s=_seconds(refused.response.headers),
        ) from refused
    except (SlackClientError, OSError) as down:
        raise NotDelivered(f"{type(down).__name__}: {down}") from down
    return f"posted {answer.get('ts')}"


def _seconds(headers: Any) -> float | None:
    for name in ("Retry-After", "retry-after", "ratelimit-reset"):
        try:
            return float(headers[name])
        except (KeyError, TypeError, ValueError):
            continue
    return None
