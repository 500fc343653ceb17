"""A platform: the sum of its sections."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, model_validator

from upkeep.findings import Severity
from upkeep.platforms.alerting import Alertmanager, Alerts, Severities, Windows
from upkeep.platforms.backup import Backup, Recovery
from upkeep.platforms.base import Name, Section
from upkeep.platforms.conduct import Approvers, Brake, Cdn, Execution
from upkeep.platforms.database import Postgres
from upkeep.platforms.growth import Capacity, Scaling
from upkeep.platforms.hosts import Hosts
from upkeep.platforms.protection import Certificates, Security
from upkeep.platforms.services import Http, Kafka, Kubernetes, Metrics, Redis


class Platform(Section):
    """One system under care. A platform without a section has no such tasks."""

    name: Name
    """Prefix of this platform's Dag ids and connections; equals the file name."""

    title: str = Field(min_length=1, max_length=80)
    """What people call it: ``StudySpot``."""

    owner: str = Field(default="platform-team", pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.@-]{0,79}$")
    """Who looks after it; Airflow shows it on every Dag."""

    severity: Severities
    """Names, clocks, and where red, paging and Slack begin."""

    alerts: Alerts = Alerts()
    """Through which connections and channels people are told."""

    alertmanager: Alertmanager | None = None
    """Alerts of Prometheus that become incidents."""

    windows: Windows = Windows()
    """When maintenance may start, and how long it may take; UTC."""

    http: Http | None = None
    """Addresses that must answer, from outside."""

    postgres: Postgres | None = None
    """The database."""

    redis: Redis | None = None
    """The cache."""

    cdn: Cdn | None = None
    """The cache of the content delivery network."""

    kafka: Kafka | None = None
    """Brokers, consumer groups, topics."""

    kubernetes: Kubernetes | None = None
    """Namespace and deployments."""

    metrics: Metrics | None = None
    """Prometheus, for disk and memory."""

    hosts: Hosts | None = None
    """Log and temporary trees."""

    security: Security | None = None
    """Scans, accounts, keys."""

    certificates: Certificates | None = None
    """TLS policy and renewals."""

    backup: Backup | None = None
    """What is kept, where, for how long."""

    recovery: Recovery | None = None
    """Targets and drills."""

    capacity: Capacity | None = None
    """Samples, forecasts, lead times."""

    scaling: Scaling | None = None
    """The scaling plan."""

    brake: Brake = Brake()
    """When maintenance waits."""

    approvers: Approvers = Approvers()
    """Who may say yes."""

    execution: Execution = Execution()
    """Where heavy tasks run."""

    def conn(self, service: str) -> str:
        """Airflow connection id of one of its services: ``conn("redis")`` → ``studyspot_redis``."""
        return f"{self.name}_{service}"

    def severity_of(self, check: str, default: Severity) -> Severity:
        """The severity of a check: the platform's own word, else ``default``."""
        return self.severity.checks.get(check, default)

    def severity_name(self, severity: Severity) -> str:
        """What this platform calls it: ``P1 Critical``."""
        level = self.severity.levels.get(severity)
        return level.name if level else severity.value

    @model_validator(mode="after")
    def _sections_agree(self) -> Platform:
        for wrong in self._clashes():
            raise ValueError(wrong)
        return self

    def _clashes(self) -> Iterator[str]:
        """What no section can see alone."""
        if self.name.endswith("_backup"):
            yield "a platform's name does not end in _backup: studyspot_backup_s3 is a connection of studyspot"
        if self.backup is not None:
            if self.backup.database is not None and self.postgres is None:
                yield "backup.database needs a postgres section"
            if (
                self.backup.configuration is not None
                and self.backup.configuration.kubernetes
                and self.kubernetes is None
            ):
                yield "backup.configuration.kubernetes needs a kubernetes section"
        if self.certificates is not None and self.certificates.managed and self.kubernetes is None:
            yield "certificates.managed needs a kubernetes section"
        if self.recovery is not None:
            drill = self.recovery.drill
            if self.backup is None:
                yield "recovery needs a backup section: there would be nothing to recover from"
            if drill.failover != "none" and self.postgres is None:
                yield f"recovery.drill.failover: {drill.failover} needs a postgres section"
            if drill.failover == "streaming" and self.postgres is not None and self.postgres.standbys == 0:
                yield "recovery.drill.failover: streaming needs a standby (postgres.standbys is 0)"
        if self.scaling is not None and self.kubernetes is not None:
            bounds = self.scaling.horizontal
            for deployment in self.kubernetes.deployments:
                if deployment.least < bounds.least or deployment.most > bounds.most:
                    yield (
                        f"deployment {deployment.name} ({deployment.least}–{deployment.most}) is outside "
                        f"scaling.horizontal ({bounds.least}–{bounds.most})"
                    )
        if self.capacity is not None and self.capacity.growth and self.postgres is None:
            yield "capacity.growth needs a postgres section"
