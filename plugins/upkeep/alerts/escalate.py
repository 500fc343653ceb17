"""What happens when nobody answers: reminders by the severity's clock, and mail when a page cannot be delivered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from upkeep.alerts.messages import (
    PAGERDUTY_SEVERITY,
    ago,
    cut,
    dedup_key,
    escape,
    headline,
    messages_for,
    pagerduty_payload,
    posted,
    section,
    slack_payload,
)
from upkeep.findings import Severity, alert_key
from upkeep.ledger import Change, Ledger, Run
from upkeep.ledger.holding import STORM, as_change
from upkeep.ledger.outbox import Event, Message, enqueue
from upkeep.ledger.run import Connection
from upkeep.platforms import Platform
from upkeep.platforms.alerting import Level

DOUBLINGS = 6
"""Each reminder waits twice as long as the one before, so many times; then they come daily."""

UNDELIVERED_S = 120
"""A page that PagerDuty has not taken for so long goes by mail as well."""


def remind(ledger: Ledger, platform: Platform, run: Run) -> int:
    """
    Say again what nobody has acknowledged within its clock, and once what is not over within its own.

    By Upkeep's own clock: it goes to Slack and by mail also while PagerDuty is down. Returns how many were told.
    """
    with ledger.transaction() as connection:
        rows = connection.execute(
            "select *, extract(epoch from clock_timestamp() - opened_at)::float8 as age_s from findings"
            " where platform = %s and state = 'open' and held = '' and severity <= %s"
            " and key not in (select key from waived) order by key"
            " for update skip locked",
            [platform.name, platform.severity.notify.value],
        ).fetchall()
        told = 0
        for row in rows:
            level = platform.severity.levels.get(Severity(row["severity"]))
            if level is None:
                continue
            number = row["reminders"] + 1
            if row["acknowledged_at"] is None and row["age_s"] >= due_s(level, row["reminders"]):
                respond = ago(level.respond.total_seconds())
                said = f"Nobody has acknowledged this for {ago(row['age_s'])}; it should be within {respond}."
                _tell(connection, platform, as_change(row, run), said, number, page=True)
                connection.execute("update findings set reminders = reminders + 1 where key = %s", [row["key"]])
                told += 1
            if not row["overdue"] and row["age_s"] >= level.resolve.total_seconds():
                resolve = ago(level.resolve.total_seconds())
                said = f"Not over after {ago(row['age_s'])}; it should be within {resolve}."
                # What was not worth a page is, by now, unless it never is.
                page = Severity(row["severity"]).at_least(Severity.P2)
                _tell(connection, platform, as_change(row, run), said, number, page=page)
                connection.execute("update findings set overdue = true where key = %s", [row["key"]])
                told += 1
    return told


def due_s(level: Level, reminders: int) -> float:
    """When the next reminder is due, in seconds after the alert: 15 min, 30 min, 1 h …, at last once a day."""
    first = (level.remind or level.respond).total_seconds()
    return first * 2.0 ** min(reminders, DOUBLINGS) + 86400.0 * max(0, reminders - DOUBLINGS)


def _tell(connection: Connection, platform: Platform, change: Change, said: str, number: int, *, page: bool) -> None:
    line = headline(platform, change)
    messages = [_slack(platform, change, line, said, platform.alerts.channel)]
    if number >= 2 and (other := platform.alerts.escalation_channel):
        messages.append(_slack(platform, change, line, said, other))
    if number >= 2:
        messages += mail(platform, change, f"Reminder: {line}", said)
    page = page and change.finding.severity.at_least(_pageable(platform))
    if page and not _on_its_way(connection, change.key):
        # The same key: PagerDuty adds it to the incident that is open, or opens the one that it missed.
        event = {
            "action": "trigger",
            "dedup_key": dedup_key(change.key),
            "payload": {
                "summary": cut(f"{line} – {said}", 1024),
                # What was worth no page when it began is worth one now.
                "severity": PAGERDUTY_SEVERITY[min(change.finding.severity, Severity.P1, key=lambda one: one.rank)],
                "source": platform.name,
                "custom_details": {"reminder": number, "said": said, "what to do": cut(change.finding.hint, 2000)},
            },
        }
        messages.append(_message(platform, change, "pagerduty", pagerduty_payload(platform, event)))
    for message in messages:
        enqueue(connection, message)


def _pageable(platform: Platform) -> Severity:
    """P2 becomes a page when its time is over (research/operations.md §2.2)."""
    paging = platform.severity.paging
    return paging if Severity.P2.at_least(paging) else Severity.P2


def _on_its_way(connection: Connection, key: str) -> bool:
    """PagerDuty has yet to hear of it at all: one word is enough."""
    row = connection.execute(
        "select 1 from outbox where key = %s and channel = 'pagerduty' and state = 'pending' limit 1", [key]
    ).fetchone()
    return row is not None


def _slack(platform: Platform, change: Change, line: str, said: str, channel: str) -> Message:
    how = f"Acknowledge it in PagerDuty, or by `python -m upkeep acknowledge {escape(cut(change.key, 300))} --by NAME`."
    blocks = [
        section(f":bell: *{escape(said)}*\n{escape(cut(line, 2500))}"),
        {"type": "context", "elements": [{"type": "mrkdwn", "text": how}]},
    ]
    content = posted(f"{said} {line}", blocks, change.key, "remind")
    return _message(platform, change, "slack", slack_payload(platform, content, channel=channel))


def mail(platform: Platform, change: Change, subject: str, body: str, spool_id: str | None = None) -> list[Message]:
    """One mail to all who are named, none when nobody is."""
    alerts = platform.alerts
    if not alerts.email:
        return []
    links = "\n".join(link for link in (change.run.run_url, change.run.log_url) if link.startswith("http"))
    text = "\n\n".join(part for part in (body, headline(platform, change), change.finding.hint, links) if part)
    payload = {
        "conn_id": alerts.smtp_conn_id,
        "to": list(alerts.email),
        "subject": cut(" ".join(subject.split()), 200),
        "body": cut(text, 20_000),
    }
    return [_message(platform, change, "email", payload, spool_id)]


def storm_grows(ledger: Ledger, platform: Platform, run: Run) -> int:
    """The umbrella's message in Slack is brought up to date where it stands; nobody is called again."""
    with ledger.transaction() as connection:
        row = connection.execute(
            "select f.* from findings as f where f.key = %s and f.state = 'open' and exists ("
            " select from threads as t where t.key = f.key and t.at < f.last_seen_at) and not exists ("
            " select from outbox as o where o.key = f.key and o.channel = 'slack' and o.event <> 'remind'"
            " and o.created_at >= f.last_seen_at)",
            [alert_key(platform.name, STORM)],
        ).fetchone()
        if row is None:
            return 0
        for message in messages_for(platform, as_change(row, run)):
            if message.channel == "slack":
                enqueue(connection, replace(message, event="update"))
    return 1


def mail_instead(ledger: Ledger, platform: Platform) -> int:
    """Mail about pages that PagerDuty refused, or has not taken for two minutes; once for each."""
    if not platform.alerts.email:
        return 0
    with ledger.transaction() as connection:
        rows = connection.execute(
            "select f.*, o.id as outbox_id, o.state as outbox_state, o.event as told from outbox as o"
            " join findings as f on f.key = o.key where o.platform = %s and o.channel = 'pagerduty'"
            " and o.event in ('trigger', 'resolve') and o.created_at > clock_timestamp() - interval '1 day'"
            " and (o.state = 'failed' or (o.state = 'pending' and o.attempts > 0"
            " and o.created_at < clock_timestamp() - make_interval(secs => %s)))"
            " and not exists (select from outbox as m where m.spool_id = 'mail ' || o.id) order by o.id",
            [platform.name, UNDELIVERED_S],
        ).fetchall()
        for row in rows:
            run = Run(platform=platform.name, dag_id="alert_delivery", run_id="", task_id="deliver")
            change = as_change(row, run)
            over = row["told"] == "resolve"
            why = "refused the page" if row["outbox_state"] == "failed" else "cannot be reached"
            line = headline(platform, change)
            said = f"{'It is over. ' if over else ''}This comes by mail because PagerDuty {why}."
            for message in mail(
                platform, change, f"{'Resolved: ' if over else ''}{line}", said, f"mail {row['outbox_id']}"
            ):
                enqueue(connection, message)
    return len(rows)


def acknowledged(platform: Platform, row: dict[str, Any], who: str) -> list[Message]:
    """What is told when somebody says that they work on it."""
    run = Run(platform=platform.name, dag_id="", run_id="", task_id="")
    change = as_change(row, run)
    said = f"Acknowledged by {who}."
    content = posted(said, [section(f":eyes: {escape(cut(said, 300))}")], change.key, "acknowledged")
    messages = [_message(platform, change, "slack", slack_payload(platform, content), event="acknowledge")]
    if change.peak.at_least(platform.severity.paging):
        event = pagerduty_payload(platform, {"action": "acknowledge", "dedup_key": dedup_key(change.key)})
        messages.append(_message(platform, change, "pagerduty", event, event="acknowledge"))
    return messages


def _message(
    platform: Platform,
    change: Change,
    channel: Any,
    payload: dict[str, Any],
    spool_id: str | None = None,
    *,
    event: Event = "remind",
) -> Message:
    return Message(
        key=change.key,
        platform=platform.name,
        channel=channel,
        event=event,
        severity=change.finding.severity.value,
        payload=payload,
        spool_id=spool_id,
    )
