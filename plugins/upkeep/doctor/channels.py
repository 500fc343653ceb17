"""PagerDuty and Slack: whether they would take a message. None is sent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from upkeep.doctor.verdict import fine, missing, unseen
from upkeep.findings import Outcome
from upkeep.health.side_by_side import one_line

if TYPE_CHECKING:
    from slack_sdk import WebClient

PAGERDUTY = "https://events.pagerduty.com"


def pagerduty(routing_key: str, base_url: str, conn_id: str, timeout_s: float = 4.0) -> list[Outcome]:
    """Shape of the key, and whether the events' host answers; only an event would show that the key is valid."""
    import httpx

    if not re.fullmatch(r"[A-Za-z0-9]{32}", routing_key):
        said = f"a routing key has 32 letters and digits, this one has {len(routing_key)} characters"
        return [missing("routing key", conn_id, said, f"copy the integration's key into the password of {conn_id}")]
    url = base_url or PAGERDUTY
    try:
        answer = httpx.get(url, timeout=timeout_s)
    except httpx.HTTPError as down:
        return [unseen("connect", conn_id, f"{url}: {one_line(down)}", cure="let the workers reach it (TCP 443)")]
    if answer.status_code >= 500:
        return [unseen("connect", conn_id, f"{url} answers {answer.status_code}")]
    return [fine("connect", conn_id, f"{url} answers; whether it takes the key shows with the first event")]


def slack(client: WebClient, conn_id: str, channels: Sequence[str]) -> list[Outcome]:
    """Whose token it is, and its scopes where Slack tells them."""
    from slack_sdk.errors import SlackApiError, SlackClientError

    try:
        answer = client.auth_test()
    except SlackApiError as refused:
        error = str(refused.response.get("error", refused) if hasattr(refused.response, "get") else refused)
        if error in ("ratelimited", "internal_error", "service_unavailable", "fatal_error", "request_timeout"):
            return [unseen("connect", conn_id, f"Slack says {error}")]
        cure = f"install the app again and put its bot token (xoxb-…) into the password of {conn_id}"
        return [missing("token", conn_id, f"Slack says {error}", cure)]
    except (SlackClientError, OSError) as down:
        return [unseen("connect", conn_id, one_line(down), cure="let the workers reach slack.com (TCP 443)")]
    said = f"bot {answer.get('user')} of {answer.get('team')}; posts to {', '.join(channels)}"
    outcomes = [fine("token", conn_id, said)]
    headers = {key.lower(): value for key, value in (answer.headers or {}).items()}
    scopes = headers.get("x-oauth-scopes")
    if scopes is not None and "chat:write" not in {scope.strip() for scope in str(scopes).split(",")}:
        cure = "add the scope chat:write to the app and install it again"
        outcomes.append(missing("scope", conn_id, f"the token has {scopes or 'no scopes'}, not chat:write", cure))
    return outcomes
