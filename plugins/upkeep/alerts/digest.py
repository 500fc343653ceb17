"""
The digest: what is too small to call anybody about, once a day, so that it is not forgotten either.

P3 is said every day until it is over, P4 on the day it appears (operations.md's severity policy). A day without news
and without an open P3 is a day without a message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from upkeep.alerts.messages import ago, cut, escape, posted, section, slack_payload
from upkeep.findings import Severity
from upkeep.ledger import Ledger
from upkeep.ledger.outbox import Message, enqueue
from upkeep.ledger.run import Connection
from upkeep.platforms import Platform
from upkeep.platforms.alerting import Window
from upkeep.windows.timetable import due

MOST = 15
"""Findings that are named; the rest are counted."""

_NEWS = """
select check_name, object, severity, summary, state, opened_at,
    state = 'open' and opened_at > %(since)s as fresh
from findings as f
where platform = %(platform)s and severity > %(notify)s
    and (state = 'open' or resolved_at > %(since)s)
    and not exists (select from waived as w where w.key = f.key)
order by severity, state, opened_at desc
"""


def send_digest(ledger: Ledger, platform: Platform, now: datetime, link: str = "") -> bool:
    """
    Put the platform's digest into the outbox if its hour has come; once per hour that comes.

    :param now: with a time zone. :param link: where all of them are. :returns: whether there was anything to say.
    """
    if platform.alerts.digest is None:
        return False
    (hour,) = due(Window(start=platform.alerts.digest), now, 1)
    with ledger.transaction() as connection:
        since = _claim(connection, f"digest/{platform.name}", hour)
        if since is None:
            return False
        rows = connection.execute(
            _NEWS, {"platform": platform.name, "since": since, "notify": platform.severity.notify.value}
        ).fetchall()
        if not any(row["fresh"] or row["state"] == "resolved" or row["severity"] == Severity.P3 for row in rows):
            return False
        key = f"{platform.name}/digest/{hour:%Y-%m-%dT%H:%M}"
        text, lines = words(platform, rows, now)
        blocks = [section(f":memo: *{escape(text)}*"), section(escape(cut("\n".join(lines), 2900)))]
        if link.startswith("http"):
            blocks.append(section(f"<{link}|All of them>"))
        message = Message(
            key=key,
            platform=platform.name,
            channel="slack",
            event="remind",
            severity=Severity.P3.value,
            payload=slack_payload(platform, posted(text, blocks, key, "digest")),
        )
        enqueue(connection, message)
    return True


def words(platform: Platform, rows: Sequence[Mapping[str, Any]], now: datetime) -> tuple[str, list[str]]:
    """One sentence, and a line for each finding."""
    open_ = [row for row in rows if row["state"] == "open"]
    fresh, over = sum(row["fresh"] for row in open_), len(rows) - len(open_)
    parts = [f"{len(open_)} open", f"{fresh} new" if fresh else "", f"{over} over" if over else ""]
    text = f"{platform.title}, what calls nobody: {', '.join(part for part in parts if part)}"
    lines = [_line(platform, row, now) for row in rows[:MOST]]
    return text, [*lines, *([f"… and {len(rows) - MOST} more"] if len(rows) > MOST else [])]


def _line(platform: Platform, row: Mapping[str, Any], now: datetime) -> str:
    severity = Severity(row["severity"])
    name = f"{row['check_name']} {row['object']}".strip()
    line = f"• {platform.severity_name(severity)}: {cut(name, 120)}: {cut(row['summary'], 250)}"
    if row["state"] == "resolved":
        return f"{line} (over)"
    if row["fresh"]:
        return f"{line} (new)"
    age = now - row["opened_at"]
    level = platform.severity.levels.get(severity)
    late = f", should be over within {ago(level.resolve.total_seconds())}" if level and age > level.resolve else ""
    return f"{line} (for {ago(age.total_seconds())}{late})"


def _claim(connection: Connection, name: str, hour: datetime) -> datetime | None:
    """The hour before this one, for whoever comes first; None for the others, and the first time ever."""
    row = connection.execute("select at from watermarks where name = %s for update", [name]).fetchone()
    if row is None:
        connection.execute("insert into watermarks (name, at) values (%s, %s) on conflict do nothing", [name, hour])
        return None
    if row["at"] >= hour:
        return None
    connection.execute("update watermarks set at = %s where name = %s", [hour, name])
    before: datetime = row["at"]
    return before
