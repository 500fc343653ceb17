"""An incident's clocks at work: what is due goes into the timeline and the outbox, in one transaction."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from upkeep.alerts.messages import ago, cut, escape, posted, section, slack_payload
from upkeep.incident.record import Incident, append, clocks, incident_of
from upkeep.incident.states import Due, due, review_due
from upkeep.ledger import Ledger
from upkeep.ledger.outbox import Channel, Message, enqueue
from upkeep.platforms import Platform


def remind_of_incidents(ledger: Ledger, platform: Platform) -> int:
    """Tell what is due about the platform's open incidents; how many times."""
    told = 0
    now = datetime.now(UTC)
    for row in ledger.rows("select * from incidents where platform = %s and state <> 'closed'", [platform.name]):
        incident = incident_of(row)
        level = platform.severity.levels.get(incident.severity)
        if level is None:
            continue
        for one in due(clocks(ledger, incident), level, now):
            said = _said(platform, incident, one, now)
            with ledger.transaction() as connection:
                append(connection, incident.id, "upkeep", one.kind, said, {"number": one.number})
                for message in _messages(platform, incident, one, said):
                    enqueue(connection, message)
            told += 1
    return told


def _said(platform: Platform, incident: Incident, one: Due, now: datetime) -> str:
    level = platform.severity.levels[incident.severity]
    minutes = int((now - incident.declared_at).total_seconds() // 60)
    match one.kind:
        case "unacknowledged":
            return (
                f"Nobody has acknowledged {incident.id} for {minutes} min;"
                f" it should be within {ago(level.respond.total_seconds())}."
            )
        case "unresolved":
            within = ago(level.resolve.total_seconds())
            return f"{incident.id} is not over after {minutes} min; it should be within {within}."
        case "update":
            return f"{incident.id} is {incident.state} for {minutes} min. Say how it stands."
    until = review_due(incident.resolved_at or incident.declared_at, incident.severity)
    return f"The review of {incident.id} was due on {until:%Y-%m-%d}."


def _messages(platform: Platform, incident: Incident, one: Due, said: str) -> list[Message]:
    key = f"{platform.name}/incident/{incident.id}"
    line = f"{said} {incident.title}"
    content = posted(line, [section(f":bell: *{escape(said)}*\n{escape(cut(incident.title, 2000))}")], key, one.kind)
    channels = [f"#{incident.channel_name}" if incident.channel_id else platform.alerts.channel]
    if one.manager:
        channels.append(platform.alerts.escalation_channel or platform.alerts.channel)
    made = [
        _message(platform, incident, key, "slack", slack_payload(platform, content, channel=channel))
        for channel in dict.fromkeys(channels)
    ]
    if one.manager and platform.alerts.email:
        mail = {
            "conn_id": platform.alerts.smtp_conn_id,
            "to": list(platform.alerts.email),
            "subject": cut(line, 200),
            "body": f"{said}\n\n{incident.title}\n\n{incident.description}",
        }
        made.append(_message(platform, incident, key, "email", mail))
    return made


def _message(platform: Platform, incident: Incident, key: str, channel: Channel, payload: dict[str, Any]) -> Message:
    return Message(
        key=key,
        platform=platform.name,
        channel=channel,
        event="remind",
        severity=incident.severity.value,
        payload=payload,
    )
