"""
What an incident has outside: an incident in PagerDuty, a channel in Slack.

Each step is remembered in the ledger as soon as it is done, and each adopts what an earlier attempt may have made
without hearing so; whatever kills it half-way, running it again makes no second one.
"""

from __future__ import annotations

from typing import Any

import httpx

from upkeep.alerts.messages import cut, escape, section
from upkeep.incident.naming import channel_name, incident_key
from upkeep.incident.record import Incident, find, note, reached
from upkeep.incident.states import IncidentError
from upkeep.ledger import Ledger
from upkeep.platforms import Platform

ACTOR = "upkeep"

URGENCY = {"P0": "high", "P1": "high"}


def pagerduty_client(host: str, token: str, sender: str) -> httpx.Client:
    """
    PagerDuty's REST API. The official client retries 429 without end, and this asks four things of it.

    :param sender: e-mail address of a user of the account; PagerDuty refuses whoever does not say who asks.
    """
    if "@" not in sender:
        raise IncidentError(
            f"connection upkeep_pagerduty_rest has no sender, got {sender!r}",
            hint="its login is the e-mail address of a PagerDuty user (the header From).",
        )
    base = host or "https://api.pagerduty.com"
    return httpx.Client(
        base_url=base if "://" in base else f"https://{base}",
        timeout=5,
        headers={
            "Authorization": f"Token token={token}",
            "Accept": "application/vnd.pagerduty+json;version=2",
            "From": sender,
        },
    )


def page(client: httpx.Client, ledger: Ledger, incident: Incident, platform: Platform, service: str = "") -> Incident:
    """
    Open it in PagerDuty, once.

    :param service: id of PagerDuty's service; empty: the one that is named as the platform.
    """
    if incident.pagerduty_id:
        return incident
    key = incident_key(incident.id)
    asked = {
        "type": "incident",
        "title": cut(f"{platform.title} {platform.severity_name(incident.severity)}: {incident.title}", 1024),
        "service": {"id": service or _service(client, platform), "type": "service_reference"},
        "incident_key": key,
        "urgency": URGENCY.get(incident.severity.value, "low"),
        "body": {"type": "incident_body", "details": cut(incident.description or incident.title, 20_000)},
    }
    answer = client.post("/incidents", json={"incident": asked})
    if answer.status_code == 400 and "matching dedup key" in answer.text:
        # An attempt of ours that never heard the answer.
        found = _get(client, "/incidents", incident_key=key)["incidents"]
        verb, made = "adopted", found[0]
    else:
        verb, made = "opened", _checked(answer)["incident"]
    reached(ledger, incident.id, pagerduty_id=made["id"])
    note(
        ledger, incident.id, ACTOR, "pagerduty", f"{verb} PagerDuty's incident {made['id']}", {"url": made["html_url"]}
    )
    return find(ledger, incident.id)


def status(client: httpx.Client, id: str) -> str:
    """``triggered``, ``acknowledged`` or ``resolved``."""
    return str(_get(client, f"/incidents/{id}")["incident"]["status"])


def set_status(client: httpx.Client, id: str, status: str) -> None:
    """``acknowledged`` or ``resolved``; what is resolved stays so."""
    _checked(client.put(f"/incidents/{id}", json={"incident": {"type": "incident_reference", "status": status}}))


def _service(client: httpx.Client, platform: Platform) -> str:
    services = _get(client, "/services", query=platform.name, limit="100")["services"]
    names = {str(one.get("summary") or one.get("name")).lower(): one["id"] for one in services}
    for name in (platform.name, platform.title.lower(), "upkeep"):
        if name in names:
            return str(names[name])
    raise IncidentError(
        f"PagerDuty has no service named {platform.name} or {platform.title}",
        hint='name it in the extra of upkeep_pagerduty_rest: {"service": "PABC123"}.',
    )


def _get(client: httpx.Client, path: str, **query: str) -> Any:
    return _checked(client.get(path, params=query))


def _checked(answer: httpx.Response) -> Any:
    if answer.is_error:
        raise IncidentError(
            f"PagerDuty answers {answer.status_code}: {cut(answer.text, 300)}",
            hint="run it again: what is done already stays, and nothing is made twice.",
        )
    return answer.json()


# -- Slack -------------------------------------------------------------------------------------------------


def gather(client: Any, ledger: Ledger, incident: Incident, platform: Platform) -> Incident:
    """
    A channel of its own: made or adopted, with a topic, the people, and a first message that is pinned.

    :param client: ``slack_sdk.WebClient``.
    """
    if not incident.channel_id:
        name = channel_name(incident.id, incident.title)
        verb, id = _channel(client, name)
        reached(ledger, incident.id, channel_id=id, channel_name=name)
        note(ledger, incident.id, ACTOR, "slack", f"{verb} #{name}")
        incident = find(ledger, incident.id)
    done = {row["kind"] for row in _slack_steps(ledger, incident)}
    if "slack topic" not in done:
        client.conversations_setTopic(channel=incident.channel_id, topic=topic(platform, incident))
        note(ledger, incident.id, ACTOR, "slack topic", topic(platform, incident))
    if "slack people" not in done:
        invited = [email for email in platform.alerts.email if _invite(client, str(incident.channel_id), email)]
        note(ledger, incident.id, ACTOR, "slack people", f"invited {len(invited)} people")
    if "slack summary" not in done:
        ts = _summary(client, platform, incident)
        note(ledger, incident.id, ACTOR, "slack summary", "posted and pinned what is known", {"ts": ts})
    return incident


def topic(platform: Platform, incident: Incident) -> str:
    """At most 250 characters, with the id in front."""
    level = platform.severity_name(incident.severity)
    return cut(f"{incident.id} · {platform.title} {level} · {incident.state} · {incident.title}", 250)


def archive(client: Any, ledger: Ledger, incident: Incident) -> None:
    """At the close: the channel stays readable, and nobody writes into it by mistake."""
    from slack_sdk.errors import SlackApiError

    if not incident.channel_id:
        return
    try:
        client.conversations_archive(channel=incident.channel_id)
    except SlackApiError as refused:
        if refused.response.get("error") != "already_archived":
            raise
    if "slack archived" not in {row["kind"] for row in _slack_steps(ledger, incident)}:
        note(ledger, incident.id, ACTOR, "slack archived", f"archived #{incident.channel_name}")


def archived(client: Any, channel: str) -> bool:
    """Whether nobody can write into it any longer."""
    return bool(client.conversations_info(channel=channel)["channel"].get("is_archived"))


def _slack_steps(ledger: Ledger, incident: Incident) -> list[dict[str, Any]]:
    return ledger.rows("select kind from timeline where incident_id = %s and kind ~ '^slack '", [incident.id])


def _channel(client: Any, name: str) -> tuple[str, str]:
    from slack_sdk.errors import SlackApiError

    try:
        return "made", str(client.conversations_create(name=name)["channel"]["id"])
    except SlackApiError as refused:
        if refused.response.get("error") != "name_taken":
            raise
    # The id of the incident stands in the name: it can only be ours, from an attempt that heard no answer.
    cursor = ""
    while True:
        found = client.conversations_list(limit=1000, cursor=cursor)
        for channel in found["channels"]:
            if channel["name"] == name:
                if channel.get("is_archived"):
                    client.conversations_unarchive(channel=channel["id"])
                if not channel.get("is_member"):
                    client.conversations_join(channel=channel["id"])
                return "adopted", str(channel["id"])
        cursor = (found.get("response_metadata") or {}).get("next_cursor") or ""
        if not cursor:
            raise IncidentError(
                f"#{name} is taken by a channel that the bot cannot see",
                hint="invite the bot into it, or rename it; then run this again.",
            )


def _invite(client: Any, channel: str, email: str) -> bool:
    """Whether they are in; one who is not known to Slack does not stop the others."""
    from slack_sdk.errors import SlackApiError

    try:
        user = client.users_lookupByEmail(email=email)["user"]["id"]
        client.conversations_invite(channel=channel, users=user)
    except SlackApiError as refused:
        if refused.response.get("error") in ("already_in_channel", "cant_invite_self"):
            return True
        if refused.response.get("error") in ("users_not_found", "user_not_found"):
            return False
        raise
    return True


def _summary(client: Any, platform: Platform, incident: Incident) -> str:
    """The first message, pinned."""
    from slack_sdk.errors import SlackApiError

    mark = {"event_type": "upkeep_incident", "event_payload": {"incident": incident.id}}
    head = f"{platform.title} {platform.severity_name(incident.severity)}: {incident.title}"
    blocks = [section(f":fire: *{escape(cut(head, 2500))}*")]
    if incident.description:
        blocks.append(section(escape(cut(incident.description, 2500))))
    blocks.append(section(f"Everything that happens is kept under `{incident.id}`. Say here who leads."))
    ts = post_once(client, str(incident.channel_id), escape(cut(head, 3000)), blocks, mark)
    try:
        client.pins_add(channel=incident.channel_id, timestamp=ts)
    except SlackApiError as refused:
        if refused.response.get("error") != "already_pinned":
            raise
    return ts


def post_once(client: Any, channel: str, text: str, blocks: list[dict[str, Any]], mark: dict[str, Any]) -> str:
    """
    Post, unless an attempt that heard no answer has; the message's ``ts``.

    :param mark: Slack's metadata, by which the message is known again.
    """
    found = client.conversations_history(channel=channel, limit=200, include_all_metadata=True)
    for one in found["messages"]:
        if one.get("metadata") == mark:
            return str(one["ts"])
    return str(client.chat_postMessage(channel=channel, text=text, blocks=blocks, metadata=mark)["ts"])
