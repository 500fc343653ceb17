"""
How a declared incident goes on: acknowledged, mitigated, resolved, reviewed, closed.

First in the record, then outside; each step looks at what is there already, so whatever kills it half-way may be run
again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx

from upkeep.alerts.messages import cut, escape, section
from upkeep.alerts.redact import redact
from upkeep.incident import outside
from upkeep.incident.record import Incident, become, find, note, timeline
from upkeep.incident.states import MOVES, IncidentError, State
from upkeep.ledger import Ledger
from upkeep.ledger.jsonb import text
from upkeep.platforms import Platform

SAID = "said"
"""Kind of a line of the timeline by which somebody says how it stands; the clock of updates begins anew."""

STATUS: Mapping[State, str] = {
    "acknowledged": "acknowledged",
    "resolved": "resolved",
    "review": "resolved",
    "closed": "resolved",
}
"""What an incident is in PagerDuty, by its state here; PagerDuty knows nothing of mitigated."""


@dataclass(frozen=True)
class Step:
    """What a person said of an incident."""

    id: str
    becomes: State | None
    """None: it stays what it is, and somebody says how it stands."""

    said: str
    actor: str
    run: str
    """Whoever runs it again says the same once."""


def read(platform: Platform, params: Mapping[str, Any], *, actor: str, run: str) -> Step:
    """
    What the form says, without secrets and personal data.

    :raises IncidentError: no such state, or nothing said.
    """
    becomes = str(params.get("becomes") or "")
    said = redact(text(str(params.get("said") or "")), platform.alerts.personal).strip()
    if becomes and becomes not in MOVES:
        raise IncidentError(f"no state {cut(becomes, 100)!r}", hint=f"one of {', '.join(MOVES)}.")
    if not becomes and not said:
        raise IncidentError("nothing is said", hint="choose a state under `becomes`, or say how it stands, or both.")
    id = str(params.get("incident") or "").strip()
    chosen = next((state for state in MOVES if state == becomes), None)
    return Step(id, chosen, said, actor, run)


def go_on(ledger: Ledger, platform: Platform, step: Step) -> Incident:
    """
    Into the record, once.

    :raises IncidentError: there is no such incident of this platform, or that state does not follow.
    """
    incident = find(ledger, step.id)
    if incident.platform != platform.name:
        raise IncidentError(
            f"{incident.id} is an incident of {incident.platform}, not of {platform.name}",
            hint="choose that platform, or another incident.",
        )
    if any(row["facts"].get("run") == step.run for row in timeline(ledger, incident.id)):
        return incident
    if step.becomes is None:
        note(ledger, incident.id, step.actor, SAID, step.said, {"run": step.run})
        return incident
    return become(
        ledger,
        incident.id,
        step.becomes,
        actor=step.actor,
        said=step.said,
        review=reviewed(platform, incident),
        run=step.run,
    )


def reviewed(platform: Platform, incident: Incident) -> bool:
    """Whether it must be reviewed before it is closed."""
    level = platform.severity.levels.get(incident.severity)
    return bool(level and level.review)


def tell_pagerduty(
    client: httpx.Client, ledger: Ledger, platform: Platform, incident: Incident, service: str = ""
) -> str:
    """
    Bring PagerDuty to the same state; a sentence of what was done.

    One that came back after it was resolved is opened there anew: PagerDuty never reopens.
    """
    status = STATUS.get(incident.state)
    if not incident.pagerduty_id or status is None:
        return "nothing to say to PagerDuty"
    there = outside.status(client, incident.pagerduty_id)
    if there == status or (there == "resolved" and status == "resolved"):
        return f"PagerDuty's incident is {there} already"
    if there == "resolved":
        opened = outside.page(client, ledger, replace(incident, pagerduty_id=None), platform, service)
        assert opened.pagerduty_id is not None
        outside.set_status(client, opened.pagerduty_id, status)
        return f"opened PagerDuty's incident {opened.pagerduty_id} anew: it came back"
    outside.set_status(client, incident.pagerduty_id, status)
    note(ledger, incident.id, outside.ACTOR, "pagerduty", f"PagerDuty's incident is {status}")
    return f"PagerDuty's incident is {status}"


def tell_slack(client: Any, ledger: Ledger, platform: Platform, incident: Incident, step: Step, link: str = "") -> str:
    """
    Topic, one message per step, and at the close the archive; a sentence of what was done.

    :param client: ``slack_sdk.WebClient``. :param link: where the draft of the review is.
    """
    if not incident.channel_id:
        return "the incident has no channel"
    if incident.state == "closed" and outside.archived(client, incident.channel_id):
        outside.archive(client, ledger, incident)
        return f"#{incident.channel_name} is archived already"
    client.conversations_setTopic(channel=incident.channel_id, topic=outside.topic(platform, incident))
    head = f"{incident.id} is {incident.state}" if step.becomes else f"{step.actor} on {incident.id}"
    blocks = [section(f"*{escape(head)}*" + (f" ({escape(cut(step.actor, 100))})" if step.becomes else ""))]
    if step.said:
        blocks.append(section(escape(cut(step.said, 2500))))
    if link:
        blocks.append(section(f"The draft of its review: {escape(cut(link, 500))}"))
    mark = {"event_type": "upkeep_incident_step", "event_payload": {"incident": incident.id, "run": step.run}}
    outside.post_once(client, incident.channel_id, escape(cut(f"{head}. {step.said}", 3000)), blocks, mark)
    if incident.state == "closed":
        outside.archive(client, ledger, incident)
        return f"#{incident.channel_name} is told and archived"
    return f"#{incident.channel_name} is told"
