"""Sections about being attacked: scanners and their findings, accounts and keys, certificates."""

from __future__ import annotations

from datetime import date, timedelta
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from upkeep.findings import Severity
from upkeep.platforms.base import (
    AbsolutePath,
    Between,
    Duration,
    HostName,
    ImageName,
    KubernetesName,
    Name,
    Section,
    distinct,
)


class Vulnerable(StrEnum):
    """How bad a vulnerability is, in the words of the scanners."""

    CRITICAL = "CRITICAL"
    HIGH = "HIGH"
    MEDIUM = "MEDIUM"
    LOW = "LOW"


WORST_FIRST = tuple(Vulnerable)


class Grade(Section):
    """What one degree of vulnerability means here."""

    severity: Severity
    """What a new one counts as."""

    fix_within: Annotated[Duration, Between("1h", "2y")]
    """From its first sight; over that it counts one step worse."""


class Project(Section):
    """Dependencies of the application, scanned from a lock file."""

    name: Name
    """What reports call it."""

    kind: Literal["npm", "pip", "osv"]
    """Which scanner reads it: npm audit, pip-audit, or osv-scanner for anything else."""

    path: AbsolutePath
    """Directory with the lock file, as the scanning pod or worker sees it."""


class Waiver(Section):
    """A known finding that somebody has decided to live with for a while."""

    id: str = Field(pattern=r"^[A-Za-z]{2,10}-[A-Za-z0-9_-]{3,40}$")
    """``CVE-2026-12345``, ``GHSA-…``."""

    object: str = Field(default="", max_length=300)
    """Image or package it is for; empty for everywhere."""

    reason: str = Field(min_length=10, max_length=500)
    """Why that is acceptable, for whoever asks."""

    owner: str = Field(min_length=2, max_length=80)
    """Who answers for it."""

    until: date
    """It counts again from this day on; a waiver that is over is not a mistake in this file."""


class Security(Section):
    """What is scanned and audited, and how long mending may take."""

    scanner: Literal["pod", "local"] = "pod"
    """Where scanners run: in a pod with no rights of its own, or as a program on the worker."""

    scanner_image: ImageName | None = None
    """Image of trivy, by digest: tags of it have been moved to malicious builds before (March 2026)."""

    images: tuple[ImageName, ...] = ()
    """Images beside those of ``kubernetes.deployments``; what is scanned is always the digest that runs."""

    projects: tuple[Project, ...] = ()
    """What the application depends on."""

    grades: dict[Vulnerable, Grade] = Field(
        default_factory=lambda: {
            Vulnerable.CRITICAL: Grade(severity=Severity.P1, fix_within=timedelta(days=7)),
            Vulnerable.HIGH: Grade(severity=Severity.P2, fix_within=timedelta(days=30)),
            Vulnerable.MEDIUM: Grade(severity=Severity.P3, fix_within=timedelta(days=90)),
            Vulnerable.LOW: Grade(severity=Severity.P4, fix_within=timedelta(days=180)),
        }
    )
    """Per degree; 7, 30, 90 and 180 days are what the industry promises."""

    least: Vulnerable = Vulnerable.HIGH
    """Only this bad or worse becomes a finding; the rest is in the report."""

    unfixed: bool = False
    """Whether vulnerabilities without a fix become findings too."""

    exploited_within: Annotated[Duration, Between("1h", "1y")] = timedelta(days=14)
    """For those known to be exploited (CISA's list), if that is shorter."""

    database_age: Annotated[Duration, Between("1h", "30d")] = timedelta(hours=48)
    """With an older vulnerability database a scan says ``unknown``, never ``clean``."""

    waivers: tuple[Waiver, ...] = ()
    """Known findings that do not count for a while."""

    key_directories: tuple[AbsolutePath, ...] = ()
    """Trees on the hosts where private keys are looked for, by content and not by name."""

    log_files: tuple[AbsolutePath, ...] = ()
    """Logs read for failed log-ins; one that is missing is ``unknown``, not zero."""

    administrators: tuple[Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")], ...] = ("root",)
    """Accounts of the hosts that may become root; any other is a finding."""

    @field_validator("grades")
    @classmethod
    def _all(cls, value: dict[Vulnerable, Grade]) -> dict[Vulnerable, Grade]:
        if missing := [grade.value for grade in WORST_FIRST if grade not in value]:
            raise ValueError(f"no grade for {', '.join(missing)}")
        clocks = [value[grade].fix_within for grade in WORST_FIRST]
        if clocks != sorted(clocks):
            raise ValueError("a worse vulnerability may not have more time than a lesser one")
        return value

    @field_validator("projects")
    @classmethod
    def _distinct(cls, value: tuple[Project, ...]) -> tuple[Project, ...]:
        return distinct(value, "name")

    @field_validator("scanner_image")
    @classmethod
    def _pinned(cls, value: str | None) -> str | None:
        if value is not None and "@sha256:" not in value:
            raise ValueError("the scanner's image is named by digest: …@sha256:…")
        return value


class ManagedCertificate(Section):
    """A Certificate of cert-manager; it is renewed through its status and never deleted."""

    name: KubernetesName
    """Name of the Certificate."""

    secret_name: KubernetesName
    """Secret that holds it."""

    ingress: KubernetesName | None = None
    """Ingress that serves it, if one does."""

    hosts: tuple[HostName, ...] = Field(min_length=1)
    """After a renewal each of these must serve the new serial number, on each of its addresses."""


class Certificates(Section):
    """TLS policy, and which certificates may be renewed; ages are judged by ``http.certificate_left``."""

    managed: tuple[ManagedCertificate, ...] = ()
    """Those that cert-manager issues; the others are only judged."""

    least_protocol: Literal["TLSv1.2", "TLSv1.3"] = "TLSv1.2"
    """A server that accepts an older one is a finding."""

    least_rsa_bits: int = Field(default=2048, ge=2048, le=16384)
    """A shorter RSA key is a finding, in bits."""

    issuing: Annotated[Duration, Between("1m", "7d")] = timedelta(hours=2)
    """A certificate that is still being issued after this is stuck."""

    served: Annotated[Duration, Between("10s", "1d")] = timedelta(minutes=10)
    """A new certificate that is not served after this is a finding: the secret changed, the process did not."""

    @field_validator("managed")
    @classmethod
    def _distinct(cls, value: tuple[ManagedCertificate, ...]) -> tuple[ManagedCertificate, ...]:
        return distinct(value, "name")

    @model_validator(mode="after")
    def _one_owner(self) -> Certificates:
        hosts = [host for certificate in self.managed for host in certificate.hosts]
        if twice := sorted({host for host in hosts if hosts.count(host) > 1}):
            raise ValueError(f"{twice[0]} belongs to two certificates")
        return self
