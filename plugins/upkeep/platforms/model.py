"""A platform: the sum of its sections."""

from __future__ import annotations

from pydantic import Field

from upkeep.findings import Severity
from upkeep.platforms.alerting import Alerts, Severities, Windows
from upkeep.platforms.base import Name, Section
from upkeep.platforms.services import Hosts, Http, Kafka, Kubernetes, Metrics, Postgres, Redis


class Platform(Section):
    """One system under care. A platform without a section has no such tasks."""

    name: Name
    """Prefix of this platform's Dag ids and connections; equals the file name."""

    title: str = Field(min_length=1, max_length=80)
    """What people call it: ``StudySpot``."""

    owner: str = Field(default="platform-team", pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.@-]{0,79}$")
    """Who looks after it; Airflow shows it on every Dag."""

    severity: Severities
    alerts: Alerts = Alerts()
    windows: Windows = Windows()
    http: Http | None = None
    postgres: Postgres | None = None
    redis: Redis | None = None
    kafka: Kafka | None = None
    kubernetes: Kubernetes | None = None
    metrics: Metrics | None = None
    hosts: Hosts | None = None

    def conn(self, service: str) -> str:
        """Airflow connection id of one of its services: ``conn("redis")`` → ``studyspot_redis``."""
        return f"{self.name}_{service}"

    def severity_of(self, check: str, default: Severity) -> Severity:
        """The severity of a check: the platform's own word, else ``default``."""
        return self.severity.checks.get(check, default)
