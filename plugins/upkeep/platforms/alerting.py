"""Sections about who is told, when, and when maintenance may run."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from upkeep.findings import Severity
from upkeep.platforms.base import Between, Duration, Section


def _cron(value: str) -> str:
    # What Airflow's own timetables use; slow to import, and only needed here.
    from croniter import CroniterBadDateError, croniter  # type: ignore[import-untyped]

    if len(value.split()) != 5 or not croniter.is_valid(value):
        raise ValueError("a cron expression has five fields, minute hour day month weekday: 0 2 * * *")
    _, _, day, month, _ = value.split()
    try:
        if day != "*" and month != "*":
            croniter(value).get_next()
    except CroniterBadDateError:
        raise ValueError("it never comes: that month has no such day") from None
    return value


Cron = Annotated[str, Field(max_length=100), AfterValidator(_cron)]
"""Five fields, UTC."""

ConnId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,99}$")]
"""An Airflow connection."""


CheckName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class Level(Section):
    """What one severity promises."""

    name: str = Field(min_length=1, max_length=40)
    """What this platform calls it: ``P1 Critical``."""

    respond: Duration
    """A person has looked within."""

    resolve: Duration
    """It is over within."""

    remind: Duration | None = None
    """Said again, to more people, when nobody has acknowledged it within; None: ``respond``."""

    update: Duration | None = None
    """Those who wait hear how it stands this often; None: only at its end."""

    review: bool = False
    """Whether it ends with a written review."""

    @model_validator(mode="after")
    def _in_order(self) -> Level:
        if self.respond > self.resolve:
            raise ValueError("respond is longer than resolve")
        return self


class Severities(Section):
    """The platform's own names and clocks for the one scale, and where red and paging begin."""

    levels: dict[Severity, Level]
    """By canonical severity; P4 needs none."""

    failing: Severity = Severity.P2
    """A finding this bad or worse makes its task fail."""

    paging: Severity = Severity.P1
    """A finding this bad or worse reaches PagerDuty."""

    notify: Severity = Severity.P2
    """A finding this bad or worse is posted to Slack at once; the rest goes to the report."""

    checks: dict[CheckName, Severity] = Field(default_factory=dict)
    """Severity of single checks where it differs: ``{redis_hit_rate: P4}``."""

    @field_validator("levels")
    @classmethod
    def _all(cls, value: dict[Severity, Level]) -> dict[Severity, Level]:
        missing = [s.value for s in list(Severity)[:4] if s not in value]
        if missing:
            raise ValueError(f"no level for {', '.join(missing)}")
        clocks = [value[s].respond for s in Severity if s in value]
        if clocks != sorted(clocks):
            raise ValueError("a worse severity may not have more time to respond than a lesser one")
        names = [level.name.lower() for level in value.values()]
        if len(set(names)) < len(names):
            raise ValueError("two levels with the same name")
        return value

    @model_validator(mode="after")
    def _order(self) -> Severities:
        if not self.paging.at_least(self.notify):
            raise ValueError(f"paging ({self.paging}) reaches further than notify ({self.notify})")
        return self


class Alerts(Section):
    """Through which connections and channels."""

    pagerduty_conn_id: ConnId = "upkeep_pagerduty_events"
    """PagerDuty Events v2: the integration's routing key is its password."""

    slack_conn_id: ConnId = "upkeep_slack"
    """Slack: the bot's token is its password."""

    channel: str = Field(default="#ops", pattern=r"^#[a-z0-9_-]{1,80}$")
    """Slack channel for findings and failed runs."""

    escalation_channel: str | None = Field(default=None, pattern=r"^#[a-z0-9_-]{1,80}$")
    """Slack channel that hears as well when nobody has acknowledged twice; None: `channel` alone."""

    webhook_conn_id: ConnId | None = None
    """Slack's incoming webhook, instead of the bot: it belongs to one channel, and knows no threads."""

    smtp_conn_id: ConnId = "upkeep_smtp"
    """Mail server, the third path."""

    email: list[Annotated[str, Field(pattern=r"^[^@\s,<>]{1,64}@[^@\s,<>]{1,255}$")]] = Field(
        default_factory=list, max_length=20
    )
    """Who gets a mail when a page could not be delivered, or when nobody acknowledged it; empty: nobody."""

    digest: Cron | None = "0 8 * * *"
    """When Slack gets what is milder than `notify`: what is new, what is over, and each open P3, UTC; None: never."""

    because: dict[CheckName, list[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_*]{0,63}$")]]] = Field(
        default_factory=dict
    )
    """Checks that keep quiet while another has a finding: `{postgres_connect: [http]}`; `*` stands for any letters."""

    personal: tuple[Literal["email", "phone", "card", "ip"], ...] = ("email", "phone", "card")
    """Personal data that never leaves in an alert or a report."""

    bad_looks: int = Field(default=2, ge=1, le=3)
    """So many looks of the health watch in a row must be bad before anybody is told; a daily look is believed at
    once."""

    look_again: Annotated[Duration, Between("1s", "4m")] = timedelta(seconds=45)
    """How soon the health watch looks again at what is new, before its next turn."""

    good_looks: int = Field(default=2, ge=1, le=20)
    """So many looks of the health watch in a row must be good before an alert is resolved; twice as many each time it
    comes back: what flaps stays open. A green daily look resolves at once."""

    reopen: Annotated[Duration, Between("1m", "7d")] = timedelta(minutes=30)
    """What comes back within this time joins its old incident."""

    storm: int = Field(default=10, ge=2, le=1000)
    """More different alerts than this within ``storm_within`` become one page that lists them."""

    storm_within: Annotated[Duration, Between("10s", "1h")] = timedelta(minutes=5)
    """… the time in which they are counted."""


class Alertmanager(Section):
    """What Prometheus' Alertmanager sends to `/upkeep/alertmanager/{platform}`, by the password of its connection."""

    severities: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")], Severity] = Field(
        default_factory=lambda: {
            "critical": Severity.P1,
            "page": Severity.P1,
            "error": Severity.P2,
            "warning": Severity.P2,
            "info": Severity.P4,
            "none": Severity.P4,
        }
    )
    """By the alerts' label `severity`; else the platform's own names. What nobody knows is P1."""

    least: Severity = Severity.P2
    """An alert this bad or worse opens an incident, or joins its group's; milder ones are Alertmanager's alone."""

    respond: bool = True
    """Whether `incident_response` is begun, which calls people and gathers evidence, and changes nothing."""


class Window(Section):
    """When one cadence may start, and for how long it may work."""

    start: Cron
    """Cron expression, UTC."""

    length: Annotated[Duration, Between("5m", "1d")] = timedelta(hours=2)
    """Nothing new is begun after this."""


class Windows(Section):
    """The platform's timetable."""

    daily: Window = Window(start="0 2 * * *")
    """Health, logs, vacuum, clean-up, report."""

    weekly: Window = Window(start="0 3 * * 0", length=timedelta(hours=4))
    """Security scans, performance, capacity, backup verification."""

    monthly: Window = Window(start="0 4 1 * *", length=timedelta(hours=6))
    """Reindex, retention of rows, the monthly review."""

    quarterly: Window = Window(start="0 5 2 1,4,7,10 *", length=timedelta(hours=8))
    """Comprehensive security audit and recovery drills."""

    backup: Window = Window(start="0 1 * * *", length=timedelta(hours=3))
    """The nightly backup."""
