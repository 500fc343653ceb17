"""Sections about who is told, when, and when maintenance may run."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from upkeep.findings import Severity
from upkeep.platforms.base import Duration, Section

Cron = Annotated[str, Field(pattern=r"^(\S+\s+){4}\S+$", max_length=100)]
"""Five fields, UTC."""


class Level(Section):
    """What one severity promises."""

    name: str = Field(min_length=1, max_length=40)
    """What this platform calls it: ``P1 Critical``."""

    respond: Duration
    """A person has looked within."""

    resolve: Duration
    """It is over within."""


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

    checks: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")], Severity] = Field(default_factory=dict)
    """Severity of single checks where it differs: ``{redis_hit_rate: P4}``."""

    @field_validator("levels")
    @classmethod
    def _all(cls, value: dict[Severity, Level]) -> dict[Severity, Level]:
        missing = [s.value for s in list(Severity)[:4] if s not in value]
        if missing:
            raise ValueError(f"no level for {', '.join(missing)}")
        return value

    @model_validator(mode="after")
    def _order(self) -> Severities:
        if not self.paging.at_least(self.notify):
            raise ValueError(f"paging ({self.paging}) reaches further than notify ({self.notify})")
        return self


class Alerts(Section):
    """Through which connections and channels."""

    pagerduty_conn_id: str = Field(default="upkeep_pagerduty_events", pattern=r"^[a-z][a-z0-9_]{0,99}$")
    slack_conn_id: str = Field(default="upkeep_slack", pattern=r"^[a-z][a-z0-9_]{0,99}$")
    channel: str = Field(default="#ops", pattern=r"^#[a-z0-9_-]{1,80}$")
    """Slack channel for findings and failed runs."""


class Window(Section):
    """When one cadence may start, and for how long it may work."""

    start: Cron
    """Cron expression, UTC."""

    length: Duration = timedelta(hours=2)
    """Nothing new is begun after this."""


class Windows(Section):
    """The platform's timetable."""

    daily: Window = Window(start="0 2 * * *")
    weekly: Window = Window(start="0 3 * * 0", length=timedelta(hours=4))
    monthly: Window = Window(start="0 4 1 * *", length=timedelta(hours=6))
    quarterly: Window = Window(start="0 5 2 1,4,7,10 *", length=timedelta(hours=8))
    backup: Window = Window(start="0 1 * * *", length=timedelta(hours=3))
