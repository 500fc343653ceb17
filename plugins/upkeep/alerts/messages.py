"""What is told about a change, to whom, and in which words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from upkeep.findings import Severity
from upkeep.ledger import Change, Run
from upkeep.ledger.holding import STORM
from upkeep.ledger.outbox import Channel, Message
from upkeep.platforms import Platform

PAGERDUTY_SEVERITY = {
    Severity.P0: "critical",
    Severity.P1: "error",
    Severity.P2: "warning",
    Severity.P3: "info",
    Severity.P4: "info",
}


def messages_for(platform: Platform, change: Change) -> list[Message]:
    """
    The messages one change calls for by the platform's severity table.

    A finding is told when it opens, and again when it gets bad enough for a channel it had not reached;
    ``better`` and mere repetition are not. Its end is told wherever it had been told.
    """
    if change.held:
        return []
    told = []
    for channel, threshold in (("pagerduty", platform.severity.paging), ("slack", platform.severity.notify)):
        if change.event == "resolved":
            reached = change.peak.at_least(threshold)
        elif change.event == "worse":
            assert change.before is not None
            reached = change.finding.severity.at_least(threshold) and not change.before.at_least(threshold)
        else:
            reached = change.event != "better" and change.finding.severity.at_least(threshold)
        if reached and not (change.quiet and channel == "slack"):
            told.append(_message(platform, change, "pagerduty" if channel == "pagerduty" else "slack"))
    return told


def _message(platform: Platform, change: Change, channel: Channel) -> Message:
    resolved = change.event == "resolved"
    payload = pagerduty_payload(platform, _pagerduty(platform, change))
    if channel == "slack":
        payload = slack_payload(platform, _slack(platform, change), joins=change.joins)
    return Message(
        key=change.key,
        platform=platform.name,
        channel=channel,
        event="resolve" if resolved else "trigger",
        severity=change.finding.severity.value,
        payload=payload,
    )


def pagerduty_payload(platform: Platform, event: Mapping[str, Any]) -> dict[str, Any]:
    """What the sender takes: the connection, and arguments of the official client."""
    return {"conn_id": platform.alerts.pagerduty_conn_id, "event": dict(event)}


def slack_payload(
    platform: Platform, message: Mapping[str, Any], *, channel: str = "", joins: bool = False
) -> dict[str, Any]:
    """What the sender takes: the connection, and arguments of ``chat.postMessage``."""
    alerts = platform.alerts
    content = {"channel": channel or alerts.channel, **message}
    if alerts.webhook_conn_id:
        return {"conn_id": alerts.webhook_conn_id, "webhook": True, "message": content}
    return {"conn_id": alerts.slack_conn_id, "message": content, "joins": joins}


def change_event(platform: Platform, run: Run, done: Sequence[Mapping[str, Any]]) -> Message:
    """What a run did, for PagerDuty's list of recent changes; the same run is told once."""
    what = ", ".join(f"{row['capability']} {row['verb']} × {row['times']}" for row in done)
    event = {
        "payload": {
            "summary": cut(f"{run.dag_id} changed {platform.title}: {what}", 1024),
            "source": platform.name,
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "custom_details": {
                f"{row['capability']} {row['verb']}": {"times": row["times"], "for example": row["example"]}
                for row in done
            },
        },
        "links": [{"href": run.run_url, "text": "Dag run"}] if run.run_url.startswith("http") else [],
    }
    return Message(
        key=f"{platform.name}/change/{run.dag_id}/{run.run_id}",
        platform=platform.name,
        channel="pagerduty",
        event="change",
        severity=Severity.P4.value,
        payload=pagerduty_payload(platform, event),
        spool_id=f"change {run.dag_id} {run.run_id}",
    )


def dedup_key(key: str) -> str:
    """The finding's key within PagerDuty's 255 characters; a longer one keeps its head and ends in its hash."""
    return key if len(key) <= 255 else f"{key[:222]}/{hashlib.sha256(key.encode()).hexdigest()[:32]}"


def headline(platform: Platform, change: Change) -> str:
    """``StudySpot P1 Critical: redis_memory: 62 of 64 MiB in use``."""
    finding = change.finding
    name = f"{finding.check} {finding.object}".strip()
    # NUL passes neither through the ledger nor through anybody's JSON.
    return f"{platform.title} {platform.severity_name(finding.severity)}: {name}: {finding.summary}".replace(
        "\0", "\ufffd"
    )


def _pagerduty(platform: Platform, change: Change) -> dict[str, Any]:
    """Arguments for ``EventsApiV2Client.send_event``. Limits: docs of the Events API v2 (1,024 characters, 512 KB)."""
    made: dict[str, Any] = {"dedup_key": dedup_key(change.key)}
    if change.event == "resolved":
        return {"action": "resolve", **made}
    finding = change.finding
    links = [("Task log", change.run.log_url), ("Dag run", change.run.run_url)]
    return {
        "action": "trigger",
        **made,
        "payload": {
            "summary": cut(headline(platform, change), 1024),
            "severity": PAGERDUTY_SEVERITY[finding.severity],
            "source": platform.name,
            "component": finding.object or finding.check,
            "group": platform.name,
            "class": finding.check,
            "custom_details": {
                "severity": finding.severity.value,
                "what to do": cut(finding.hint, 2000),
                "numbers": _numbers(finding.facts),
                "dag": change.run.dag_id,
                "run": change.run.run_id,
                "task": change.run.task_id,
            },
        },
        "links": [{"href": href, "text": text} for text, href in links if href.startswith("http")],
        "client": "Upkeep",
        **({"client_url": change.run.run_url} if change.run.run_url.startswith("http") else {}),
    }


def _slack(platform: Platform, change: Change) -> dict[str, Any]:
    """``text`` and ``blocks`` for chat.postMessage, within Block Kit's limits (section 3,000 characters)."""
    finding = change.finding
    line = headline(platform, change)
    links = " · ".join(
        f"<{href}|{text}>"
        for text, href in (("log", change.run.log_url), ("run", change.run.run_url))
        if href.startswith("http")
    )
    if change.event == "resolved":
        text = f"Resolved: {line}"
        blocks = [section(f":white_check_mark: *Resolved*{_after(change)}: {escape(cut(line, 2500))}")]
    else:
        text = line
        blocks = [section(f":rotating_light: *{escape(cut(line, 2500))}*")]
        if finding.hint:
            blocks.append(section(f"*What to do:* {escape(cut(finding.hint, 2500))}"))
    where = f"{finding.severity} · {escape(change.run.dag_id)}" + (f" · {links}" if links else "")
    blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": cut(where, 2900)}]})
    if finding.check == STORM and change.event != "resolved":
        members = "\n".join(f"• {member}" for member in finding.facts["members"])
        blocks.insert(1, section(escape(cut(members, 2900))))
    return posted(text, blocks, change.key, change.event)


def _after(change: Change) -> str:
    return f" after {ago((datetime.now(UTC) - change.since).total_seconds())}" if change.since else ""


def ago(seconds: float) -> str:
    """A length of time as people say it: ``40 s``, ``16 min``, ``5 h``, ``3 days``."""
    for unit, length, enough in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if seconds < enough * length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds // 86400)} days"


def posted(text: str, blocks: list[dict[str, Any]], key: str, event: str) -> dict[str, Any]:
    """A Slack message that is known again by its key; ``text`` is what notifications show."""
    return {
        "text": escape(cut(text, 3000)),
        "blocks": blocks,
        "unfurl_links": False,
        "metadata": {"event_type": "upkeep_finding", "event_payload": {"key": dedup_key(key), "event": event}},
    }


def section(text: str) -> dict[str, Any]:
    """A paragraph of mrkdwn; whoever calls has escaped what is not ours."""
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def escape(text: str) -> str:
    """Slack's three control characters; after this no ``<!channel>`` or link can come out of foreign text."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def cut(text: str, most: int) -> str:
    """At most ``most`` characters, with a notice when something is missing."""
    if len(text) <= most:
        return text
    notice = f" … ({len(text)} characters)"
    return text[: most - len(notice)] + notice


def _numbers(facts: Mapping[str, Any]) -> Any:
    text = json.dumps(dict(facts), default=str)
    return json.loads(text) if len(text) <= 10_000 else cut(text, 10_000)
