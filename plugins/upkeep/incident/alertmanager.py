"""
What Prometheus' Alertmanager sends (webhook, version 4): each group of alerts is one incident of a platform.

It sends the whole group each time, again and again while it burns, and from each of its replicas: an incident is
joined, and its timeline grows by what changed alone. Whether it is over is for people to say.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from upkeep.alerts.messages import cut
from upkeep.alerts.redact import redact
from upkeep.errors import UpkeepError
from upkeep.findings import Severity
from upkeep.incident.naming import severity_named
from upkeep.incident.record import Incident, append, declare, incident_of
from upkeep.incident.states import AT_WORK
from upkeep.ledger import Ledger
from upkeep.ledger.run import Connection
from upkeep.platforms import Platform
from upkeep.platforms.alerting import Alertmanager
from upkeep.platforms.base import format_duration

ACTOR = "Alertmanager"
KIND = "alerts"
"""Of its lines in the timeline."""

STORM = "alertmanager storm"
"""Key of the one incident that takes in what comes in a storm."""

LEAST_PASSWORD = 16
"""Letters of the password that stands alone before all this; nobody types it."""

MOST_NAMED = 20
"""Alerts of one group that are named; the rest is counted."""


class PayloadError(UpkeepError):
    """What came is not what Alertmanager sends."""


Text = Annotated[str, Field(max_length=20_000)]
Labels = dict[Annotated[str, Field(max_length=1000)], Text]


class Alert(BaseModel):
    """One alert, as Alertmanager spells it."""

    model_config = ConfigDict(frozen=True)

    status: Literal["firing", "resolved"]
    labels: Labels
    annotations: Labels = Field(default_factory=dict)
    started: datetime = Field(alias="startsAt")
    source: Text = Field(default="", alias="generatorURL")
    fingerprint: Annotated[str, Field(min_length=1, max_length=100)]

    @property
    def name(self) -> str:
        return self.labels.get("alertname") or "an alert without a name"

    @property
    def summary(self) -> str:
        """What its rule says for people."""
        said = (self.annotations.get(name, "") for name in ("summary", "message", "description"))
        return " ".join(next((text for text in said if text.strip()), "").split())

    @property
    def line(self) -> str:
        """``KubePodCrashLooping, pod=api-1: …, since 02:14 UTC``."""
        where = ", ".join(f"{key}={value}" for key, value in sorted(self.labels.items()) if key not in _NOT_WHERE)
        more = [self.annotations.get("runbook_url", ""), self.source]
        return cut(
            f"{self.name}{', ' if where else ''}{where}: {self.summary or 'says no more'}"
            f" (since {self.started:%Y-%m-%d %H:%M %Z}{''.join(f', {one}' for one in more if one)})",
            1000,
        )


_NOT_WHERE = ("alertname", "severity", "prometheus")


class Group(BaseModel):
    """The alerts that belong together, and what they share."""

    model_config = ConfigDict(frozen=True)

    version: Literal["4"]
    key: Annotated[str, Field(min_length=1, max_length=20_000, alias="groupKey")]
    receiver: Text = ""
    url: Text = Field(default="", alias="externalURL")
    left_out: int = Field(default=0, ge=0, alias="truncatedAlerts")
    alerts: Annotated[list[Alert], Field(max_length=10_000)]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What became of it."""

    said: str
    incident: Incident | None = None
    respond: bool = False
    """Whether people must be called, which may have been done already."""


def read(content: bytes) -> Group:
    """:raises PayloadError: says what is wrong, never what was sent."""
    try:
        return Group.model_validate_json(content)
    except ValidationError as wrong:
        first = wrong.errors(include_input=False, include_url=False)[0]
        at = ".".join(str(part) for part in first["loc"])
        raise PayloadError(
            f"not a notification of Alertmanager: {f'{at}: ' if at else ''}{first['msg']}",
            hint="it is the JSON of a `webhook_configs` receiver, version 4, as Alertmanager sends it since 0.6.",
        ) from None


def take_in(ledger: Ledger, platform: Platform, policy: Alertmanager, group: Group) -> Taken:
    """
    Open the group's incident or join it, and write into its timeline what changed.

    Sent again it changes nothing. :raises LedgerError: the ledger is down; nothing is half done.
    """
    grave = [alert for alert in group.alerts if _severity(platform, policy, alert).at_least(policy.least)]
    firing = [alert for alert in grave if alert.status == "firing"]
    if not firing:
        return _over(ledger, platform, group, grave)
    worst = min((_severity(platform, policy, alert) for alert in firing), key=list(Severity).index)
    first = next(alert for alert in firing if _severity(platform, policy, alert) == worst)
    title = f"{first.name}: {first.summary}" if first.summary else first.name
    with ledger.transaction() as connection:
        known = _standing(connection, platform, group)
        storm = known is None and _storms(connection, platform)
    key = known["key"] if known else STORM if storm else _key(group)
    if key == STORM:
        most, within = platform.alerts.storm, format_duration(platform.alerts.storm_within)
        title = f"More than {most} groups of alerts of Prometheus within {within}"
    incident, new = declare(
        ledger, platform, worst, title, actor=ACTOR, key=key, description=_described(firing, group.left_out)
    )
    with ledger.transaction() as connection:
        raised = _raise(connection, incident, worst)
        _tell(connection, platform, incident.id, group, firing)
    incident = raised or incident
    said = "declared" if new else "made graver" if raised else "joined"
    return Taken(said=f"{said} {incident.id}", incident=incident, respond=policy.respond)


def _over(ledger: Ledger, platform: Platform, group: Group, grave: list[Alert]) -> Taken:
    """Nothing of the group that counts fires any longer."""
    with ledger.transaction() as connection:
        row = _standing(connection, platform, group)
        if row is None:
            return Taken(said="nothing was open" if grave else "too mild for an incident")
        _tell(connection, platform, row["id"], group, [])
    return Taken(said=f"told {row['id']} that it fires no longer", incident=incident_of(row))


def _standing(connection: Connection, platform: Platform, group: Group) -> dict[str, Any] | None:
    """The group's incident that is at work: its own, or the storm's that told of it."""
    return connection.execute(
        "select i.* from incidents as i where platform = %(platform)s and state = any(%(at_work)s) and (key = %(key)s"
        " or key = %(storm)s and exists (select from timeline as t where t.incident_id = i.id and t.kind = %(kind)s"
        " and t.facts ->> 'group' = %(group)s)) order by key = %(key)s desc limit 1",
        {
            "platform": platform.name, "at_work": list(AT_WORK), "key": _key(group), "storm": STORM, "kind": KIND,
            "group": _digest(group.key),
        },
    ).fetchone()  # fmt: skip


def _storms(connection: Connection, platform: Platform) -> bool:
    """Whether so many have been declared just now that one more would only hide them."""
    row = connection.execute(
        "select count(*) as declared from incidents where platform = %s and key like 'alertmanager %%'"
        " and declared_at > clock_timestamp() - %s",
        [platform.name, platform.alerts.storm_within],
    ).fetchone()
    assert row is not None
    return bool(row["declared"] >= platform.alerts.storm)


def _severity(platform: Platform, policy: Alertmanager, alert: Alert) -> Severity:
    said = alert.labels.get("severity", "")
    known = {name.lower(): severity for name, severity in policy.severities.items()}
    return known.get(said.strip().lower()) or severity_named(platform, said[:100])


def _key(group: Group) -> str:
    """The incident's key: the group's own, as long as a key may be."""
    return f"alertmanager {_digest(group.key)} {cut(group.key, 400)}"


def _digest(said: str) -> str:
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _described(alerts: list[Alert], left_out: int) -> str:
    lines = [alert.line for alert in alerts[:MOST_NAMED]]
    if more := len(alerts) - len(lines) + left_out:
        lines.append(f"and {more} more")
    return "\n".join(lines)


def _raise(connection: Connection, incident: Incident, to: Severity) -> Incident | None:
    """An incident that has become graver; never milder: who was called stays called."""
    if incident.severity.at_least(to):
        return None
    row = connection.execute(
        "update incidents set severity = %s where id = %s returning *", [to.value, incident.id]
    ).fetchone()
    assert row is not None
    append(connection, incident.id, ACTOR, "severity", f"{to}, it was {incident.severity}", {})
    return incident_of(row)


def _tell(connection: Connection, platform: Platform, id: str, group: Group, firing: list[Alert]) -> None:
    """What fires now, once for each change."""
    # Two replicas may say it in the same moment.
    connection.execute("select 1 from incidents where id = %s for update", [id])
    last = connection.execute(
        "select facts from timeline where incident_id = %s and kind = %s and facts ->> 'group' = %s"
        " order by number desc limit 1",
        [id, KIND, _digest(group.key)],
    ).fetchone()
    now = sorted(alert.fingerprint for alert in firing)
    digest = _digest(" ".join(now))
    if last is not None and last["facts"].get("firing") == digest:
        return
    facts: dict[str, Any] = {
        "group": _digest(group.key), "firing": digest, "count": len(now), "receiver": group.receiver, "url": group.url,
    }  # fmt: skip
    said = f"{len(now)} firing\n{_described(firing, group.left_out)}"
    if not now:
        said = f"nothing of it fires any longer: {cut(group.key, 500)}"
    append(connection, id, ACTOR, KIND, redact(said, platform.alerts.personal), facts)
