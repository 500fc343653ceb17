"""PagerDuty, Slack, mail and the other ways to the outside: whether they would take a message. None is sent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from upkeep.doctor.verdict import fine, missing, unseen
from upkeep.errors import UpkeepError
from upkeep.findings import Outcome
from upkeep.health.side_by_side import one_line
from upkeep.incident.alertmanager import LEAST_PASSWORD

if TYPE_CHECKING:
    from airflow.sdk import Connection
    from slack_sdk import WebClient

    from upkeep.incident.cdn import Access

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


def pagerduty_rest(found: Connection) -> list[Outcome]:
    """Whether the token is taken. In whose name incidents are made shows with the first one."""
    import httpx

    from upkeep.incident.outside import pagerduty_client

    conn_id = found.conn_id
    try:
        with pagerduty_client(found.host or "", found.password or "", found.login or "") as client:
            status = client.get("/abilities").status_code
    except UpkeepError as wrong:
        return [missing("login", conn_id, wrong.message, wrong.hint)]
    except (httpx.HTTPError, httpx.InvalidURL) as down:
        return [unseen("connect", conn_id, one_line(down), cure="let the workers reach it (TCP 443)")]
    if status in (401, 403):
        return [missing("token", conn_id, f"PagerDuty answers {status}", f"put a REST API token into {conn_id}")]
    if status >= 400:
        return [unseen("connect", conn_id, f"PagerDuty answers {status}")]
    return [fine("token", conn_id, f"the token is taken; incidents are made in the name of {found.login}")]


def mail(found: Connection) -> list[Outcome]:
    """Whether the mail server takes the login. No mail is sent."""
    import smtplib

    from upkeep.alerts.mail import session

    conn_id = found.conn_id
    try:
        with session(found) as server:
            code, said = server.noop()
    except smtplib.SMTPAuthenticationError as refused:
        return [missing("login", conn_id, one_line(refused), f"correct login and password of {conn_id}")]
    except (smtplib.SMTPException, OSError) as down:
        return [unseen("connect", conn_id, one_line(down), cure="let the workers reach it, or correct host and port")]
    return [fine("login", conn_id, f"the mail server answers {code} {said.decode(errors='replace')}")]


def airflow_api(conn_id: str) -> list[Outcome]:
    """Whether Airflow's own API lets runs be read: killed ones tell nobody themselves."""
    import httpx

    from upkeep.alerts.reconcile import api_client

    try:
        with api_client() as api:
            answer = api.get("/api/v2/dags/~/dagRuns", params={"limit": 1}).raise_for_status()
    except httpx.HTTPStatusError as refused:
        status = refused.response.status_code
        if status in (401, 403):
            cure = f"give {conn_id} a login (or token) that may read Dag runs: the role Viewer may"
            return [missing("login", conn_id, f"Airflow's API answers {status}", cure)]
        return [unseen("connect", conn_id, f"Airflow's API answers {status}")]
    except (httpx.HTTPError, httpx.InvalidURL) as down:
        return [unseen("connect", conn_id, one_line(down), cure=f"correct the host of {conn_id}")]
    return [fine("login", conn_id, f"may read runs ({answer.json().get('total_entries', 0)} so far)")]


def heartbeat(conn_id: str) -> list[Outcome]:
    """Asking it would be a sign of life."""
    return [fine("connection", conn_id, "is there; `alert_delivery` shows whether it answers")]


def alertmanager(password: str, conn_id: str) -> list[Outcome]:
    """Whether it is a password at all; that Alertmanager sends it shows with its first alert."""
    if len(password) < LEAST_PASSWORD:
        said = f"the password has {len(password)} letters, not {LEAST_PASSWORD} or more"
        return [missing("password", conn_id, said, "put a new one into both: openssl rand -hex 32")]
    return [fine("password", conn_id, "is there; the first alert shows whether Alertmanager sends it")]


def cdn(access: Access, conn_id: str) -> list[Outcome]:
    """Only a purge would show whether the token may purge."""
    return [fine("token", conn_id, f"token and zone are there for {access.api}; the first purge shows its rights")]
