"""What each page shows, gathered from the ledger; everything bounded."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from upkeep.capacity import view as outlooks
from upkeep.findings import Severity
from upkeep.incident.record import Incident, find, incident_of, tampered, timeline
from upkeep.ledger import Ledger
from upkeep.ledger.jsonb import text
from upkeep.page import backups, drills, now, windows
from upkeep.page.ask import ask, by_platform
from upkeep.platforms import Platform
from upkeep.windows.timetable import timetable

MOST_FINDINGS, MOST_INCIDENTS, MOST_BACKUPS, MOST_WRONG = 100, 50, 30, 20

RECENT = timedelta(days=14)
"""What went wrong before that is shown folded."""

STRIP_DAYS = 14


@dataclass(frozen=True)
class Reader:
    """What somebody may see: the platforms and Dags that Airflow lets them read."""

    platforms: Sequence[Platform]
    dag_ids: Collection[str]
    may_waive: Collection[str] = ()
    """Names of the platforms whose findings they may waive."""

    def timetable(self, platform: Platform) -> dict[str, Any]:
        """Of the Dags that they may read."""
        return {dag_id: window for dag_id, window in timetable(platform).items() if dag_id in self.dag_ids}

    @property
    def names(self) -> list[str]:
        return [platform.name for platform in self.platforms]

    def platform(self, name: str) -> Platform | None:
        return next((platform for platform in self.platforms if platform.name == name), None)


def overview(ledger: Ledger, reader: Reader, at: datetime, zone: str) -> dict[str, Any]:
    """Every platform in a row, the worst first."""
    states = now.how(ledger, reader.platforms, at)
    proofs = backups.proofs(ledger, reader.platforms, at)
    every = {dag_id: window for platform in reader.platforms for dag_id, window in reader.timetable(platform).items()}
    calendars = windows.calendars(ledger, every, at, back=timedelta(days=STRIP_DAYS), zone=zone)
    reports = by_platform(ask(ledger, "reports", platforms=reader.names))
    rows: list[dict[str, Any]] = [
        {
            "platform": platform,
            "now": states[platform.name],
            "proof": proofs.get(platform.name),
            "days": windows.days((calendars[dag_id] for dag_id in reader.timetable(platform)), at, STRIP_DAYS),
            "report": next(iter(_reports(reader, reports.get(platform.name, []))), None),
        }
        for platform in reader.platforms
    ]
    rows.sort(
        key=lambda row: (now.WORST_FIRST.index(row["now"].state), row["now"].worst or "P9", row["platform"].title)
    )
    counts = {state: sum(one.state == state for one in states.values()) for state in now.WORST_FIRST}
    return {"rows": rows, "counts": counts}


def one(ledger: Ledger, reader: Reader, platform: Platform, at: datetime, zone: str) -> dict[str, Any]:
    """Everything about one platform."""
    names = [platform.name]
    calendars = windows.calendars(ledger, reader.timetable(platform), at, zone=zone)
    wrong = sorted((one for made in calendars.values() for one in made.wrong), key=lambda one: one.due_at, reverse=True)
    sections = [
        {
            "calendar": made,
            "months": windows.months(made, at) if len(made.served) > 100 or _daily(made) else [],
        }
        # What is due most often comes first.
        for made in sorted(calendars.values(), key=lambda made: -len(made.served))
    ]
    return {
        "platform": platform,
        "now": now.how(ledger, [platform], at)[platform.name],
        "findings": _findings(ledger, reader, {**OPEN, "platforms": names}, platform),
        "waived": _findings(ledger, reader, {**OPEN, "platforms": names, "state": "waived"}, platform),
        "calendars": sections,
        "legend_words": windows.SAID,
        "wrong": [one for one in wrong if at - one.due_at <= RECENT][:MOST_WRONG],
        "wrong_before": [one for one in wrong if at - one.due_at > RECENT][:MOST_WRONG],
        "proof": backups.proofs(ledger, [platform], at).get(platform.name),
        "backups": ask(ledger, "backup_list", platform=platform.name, most=MOST_BACKUPS) if platform.backup else [],
        "runs_out": outlooks.left(ledger, platform.name, at) if platform.capacity else [],
        "drills": _drills(ledger, reader, platform) if platform.recovery else [],
        "incidents": _named(ask(ledger, "incidents", platforms=names, most=10), reader),
        "reports": _reports(reader, ask(ledger, "reports", platforms=names)),
    }


def capacity(ledger: Ledger, platform: Platform, at: datetime) -> dict[str, Any]:
    """When which limit of one platform is reached."""
    return {"platform": platform, "view": outlooks.view(ledger, platform, at, most_plots=outlooks.MOST_PLOTS)}


def _daily(made: windows.Calendar) -> bool:
    """Whether it is due on most days, so that a sheet per month suits it."""
    return len(made.served) >= 3 and (made.served[-1].due_at - made.served[0].due_at).days < 2 * len(made.served)


OPEN: dict[str, Any] = {"state": "open", "worst": "P4", "words": None, "key": None, "most": MOST_FINDINGS}
"""The usual question about findings."""


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What somebody wants to see of the findings; anything that makes no sense is left out."""

    platform: str = ""
    state: str = "open"
    worst: str = ""
    words: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Filter:
        state, worst = query.get("state", "open"), query.get("worst", "")
        return cls(
            platform=query.get("platform", "")[:40],
            state=state if state in ("open", "waived", "resolved", "all") else "open",
            worst=worst if worst in {severity.value for severity in Severity} else "",
            words=query.get("words", "").replace("\0", "").strip()[:200],
        )

    @property
    def pattern(self) -> str | None:
        """For ILIKE, in which what was typed stands for itself."""
        if not self.words:
            return None
        escaped = re.sub(r"([%_\\])", r"\\\1", self.words)
        return f"%{escaped}%"


def findings(ledger: Ledger, reader: Reader, wanted: Filter) -> dict[str, Any]:
    """The list of findings, and the waivers that run."""
    names = [name for name in reader.names if wanted.platform in ("", name)]
    asked = {"platforms": names, "state": wanted.state, "worst": wanted.worst or "P4", "words": wanted.pattern}
    rows = _findings(ledger, reader, {**OPEN, **asked})
    return {
        "wanted": wanted,
        "platforms": reader.platforms,
        "findings": rows,
        "total": rows[0]["total"] if rows else 0,
        "waivers": ask(ledger, "waivers", platforms=names, most=MOST_FINDINGS),
    }


def _findings(
    ledger: Ledger, reader: Reader, asked: Mapping[str, Any], platform: Platform | None = None
) -> list[dict[str, Any]]:
    rows = ask(ledger, "findings", **asked)
    for row in rows:
        own = platform or reader.platform(row["platform"])
        severity = Severity(row["severity"])
        row["level"] = {"severity": row["severity"], "name": own.severity_name(severity) if own else severity.value}
        row["title"] = own.title if own else row["platform"]
        row["may_waive"] = row["state"] == "open" and row["platform"] in reader.may_waive
    return rows


def finding(ledger: Ledger, reader: Reader, platform: Platform, key: str) -> dict[str, Any] | None:
    """One that is open, waived or not."""
    asked = {**OPEN, "platforms": [platform.name], "state": "all", "key": key}
    rows = _findings(ledger, reader, asked, platform)
    return rows[0] if rows and rows[0]["state"] == "open" else None


def incidents(ledger: Ledger, reader: Reader) -> list[dict[str, Any]]:
    """Those that somebody works on, and the last ones, of all platforms."""
    return _named(ask(ledger, "incidents", platforms=reader.names, most=MOST_INCIDENTS), reader)


def incident(ledger: Ledger, reader: Reader, id: str) -> dict[str, Any] | None:
    """One with its timeline; None: there is none, or not for this reader. :raises IncidentError: there is none."""
    found: Incident = find(ledger, text(id))
    own = reader.platform(found.platform)
    if own is None:
        return None
    return {
        "incident": found,
        "platform": own,
        "level": {"severity": found.severity.value, "name": own.severity_name(found.severity)},
        "lines": timeline(ledger, found.id),
        "tampered": tampered(ledger, found.id),
    }


def _named(rows: list[dict[str, Any]], reader: Reader) -> list[dict[str, Any]]:
    for row in rows:
        own = reader.platform(row["platform"])
        severity = incident_of({k: v for k, v in row.items() if k not in ("lines", "at_work", "total")}).severity
        row["title_of_platform"] = own.title if own else row["platform"]
        row["level"] = {"severity": severity.value, "name": own.severity_name(severity) if own else severity.value}
    return rows


def _drills(ledger: Ledger, reader: Reader, platform: Platform) -> list[dict[str, Any]]:
    """With the address of each newest one's page, where it may be read."""
    return [
        {
            "drill": one,
            "href": f"{_report(one.newest)}drill-{quote(one.newest['task_id'], safe='')}.html"
            if one.newest["dag_id"] in reader.dag_ids
            else "",
        }
        for one in drills.rehearsed(ledger, [platform.name])
    ]


def _report(row: Mapping[str, Any]) -> str:
    """Below the page's own address."""
    return "reports/" + "/".join(quote(row[part], safe="") for part in ("platform", "dag_id", "run_id")) + "/"


def _reports(reader: Reader, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of the Dags that may be read, the newest first, with their address below the page's."""
    return [{**row, "href": _report(row)} for row in rows if row["dag_id"] in reader.dag_ids]
