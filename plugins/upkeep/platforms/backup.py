"""Sections about getting it back: backups and their retention, recovery targets and drills."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from upkeep.findings import Severity
from upkeep.platforms.base import AbsolutePath, Between, BucketName, Duration, KubernetesName, Section, Share


def _folder(prefix: str) -> str:
    if not prefix.endswith("/") or prefix.startswith("/"):
        raise ValueError("a prefix ends with / and does not start with one: database/")
    if any(part in ("", ".", "..") for part in prefix[:-1].split("/")):
        raise ValueError("a prefix has no empty part, no . and no ..")
    return prefix


Prefix = Annotated[str, Field(pattern=r"^[A-Za-z0-9!_.*'()/-]+$", max_length=200), AfterValidator(_folder)]
"""Where in the bucket: ``database/``."""

Keep = Annotated[Duration, Between("1d", "20y")]


class Restoring(Section):
    """How the database is brought back on request: into a new one beside it, proved, swapped by rename after a yes."""

    template: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$")] = "template0"
    """What the new database is made from; one that has the extensions that only a superuser may create."""

    wait: Annotated[Duration, Between("10ms", "1h")] = timedelta(seconds=30)
    """So long the swap waits for transactions to end by themselves; then sessions are ended."""

    within: Annotated[Duration, Between("10s", "1h")] = timedelta(minutes=2)
    """The swap is given up when somebody who cannot be ended uses the database for this long."""


class DatabaseBackup(Section):
    """The database, as a dump with digests of the same snapshot: it proves itself, and any version can read it."""

    prefix: Prefix = "database/"
    """Where in the bucket."""

    keep: Keep = timedelta(days=30)
    """Younger backups are never deleted."""

    restore: Restoring | None = None
    """None means that nobody may restore it by form; the owner role then needs no more rights."""


class ClusterBackup(Section):
    """
    The whole cluster file by file, and its log: recovery to any second, beside the dump and not in its place.

    The maintenance role needs REPLICATION for it (include/sql/postgres/roles.sql with ``upkeep.physical=on``).
    """

    prefix: Prefix = "cluster/"
    """Where in the bucket: base backups below ``base/`` in it, the log below ``wal/``."""

    keep: Keep = timedelta(days=14)
    """Younger base backups are never deleted, nor is the log that the oldest of them needs."""

    full_every: Annotated[Duration, Between("1d", "90d")] | None = None
    """Base backups in between copy only what changed (PostgreSQL 17 on, ``summarize_wal``); none: all are full."""

    checkpoint: Literal["fast", "spread"] = "spread"
    """A base backup begins with a checkpoint: ``fast`` makes the server hurry, ``spread`` takes its usual minutes."""

    log_every: Annotated[Duration, Between("1m", "30m")] = timedelta(minutes=5)
    """Time between two rounds that fetch the log: so much of the newest data may be lost. Whole minutes."""

    slot: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,63}$")] = "upkeep"
    """Replication slot that keeps the log on the server until it lies in the bucket."""

    @model_validator(mode="after")
    def _whole_minutes(self) -> ClusterBackup:
        minutes, rest = divmod(self.log_every, timedelta(minutes=1))
        if rest or 60 % minutes:
            raise ValueError("log_every divides an hour into whole minutes: 1m, 2m, 5m, 10m, 15m …")
        return self


class FilesBackup(Section):
    """Files of the application, copied from bucket to bucket."""

    bucket: BucketName
    """Where they live."""

    prefix: Prefix = "files/"
    """Where in the bucket of backups."""

    storage_class: Literal["STANDARD", "STANDARD_IA", "INTELLIGENT_TIERING", "GLACIER_IR"] = "STANDARD_IA"
    """Of the copies; S3's infrequent access costs by the retrieval and at least 30 days."""

    most_deleted: Share = 0.05
    """More than this share of the files gone since yesterday stops the copy: somebody may be erasing them."""


class ConfigurationBackup(Section):
    """Configuration: host trees and Kubernetes objects in one archive that is the same for the same content."""

    prefix: Prefix = "configuration/"
    """Where in the bucket."""

    keep: Keep = timedelta(days=90)
    """Younger archives are never deleted."""

    paths: tuple[AbsolutePath, ...] = ()
    """Trees on the platform's hosts."""

    kubernetes: bool = True
    """Also the objects of the platform's namespace; secrets only when ``backup.encryption`` is on."""

    @model_validator(mode="after")
    def _something(self) -> ConfigurationBackup:
        if not self.paths and not self.kubernetes:
            raise ValueError("neither paths nor kubernetes: there is nothing to keep")
        return self


class Generations(Section):
    """How many of the last of each period are kept beyond their days: grandfather, father, son."""

    daily: int = Field(default=7, ge=0, le=366)
    """The last of each of so many days."""

    weekly: int = Field(default=4, ge=0, le=520)
    """… weeks."""

    monthly: int = Field(default=12, ge=0, le=240)
    """… months."""

    yearly: int = Field(default=0, ge=0, le=50)
    """… years."""


class Backup(Section):
    """What is kept, where, for how long; written through ``{platform}_backup_s3``."""

    bucket: BucketName
    """Where backups go; another account than the platform's, if it can be."""

    database: DatabaseBackup | None = None
    """Dump of the database."""

    cluster: ClusterBackup | None = None
    """Base backups of the whole cluster, and its log."""

    files: FilesBackup | None = None
    """Copy of the application's files."""

    configuration: ConfigurationBackup | None = None
    """Archive of what the platform is made from."""

    encryption: Literal["none", "aes-256-gcm", "age"] = "none"
    """
    Before upload, by connection ``{platform}_backup_key``: with aes-256-gcm its password is the key; with age its login
    is the recipients and its password an identity, which only workers that verify and restore need.
    """

    keep_verified: int = Field(default=7, ge=1, le=1000)
    """So many content-verified database backups are kept whatever their age; the newest always is."""

    generations: Generations = Generations()
    """What is kept beyond ``keep``, of the database."""

    deleted_after: Annotated[Duration, Between("1h", "30d")] = timedelta(hours=24)
    """A backup past its time is marked first and deleted this much later."""

    most_share: Share = 0.5
    """The standing yes ends here: deleting more than this share of the backups asks a person first."""

    fresh: Annotated[Duration, Between("1h", "90d")] = timedelta(hours=36)
    """Older than this, the newest backup is a finding; 1.5 times the time between two."""

    size_band: Share = 0.4
    """So far the size may be off the median of the last seven."""

    least_size: Share = 0.5
    """Less than this share of the median counts with ``severity``, whatever ``size_band`` says."""

    severity: Severity = Severity.P1
    """How bad a missing, old or broken backup is."""

    object_lock: Annotated[Duration, Between("1d", "10y")] | None = None
    """Retention that S3 Object Lock must enforce on new backups; none means no lock is asked for."""

    unfinished: Annotated[Duration, Between("1h", "90d")] = timedelta(days=7)
    """Uploads that never finished are swept after this."""

    @model_validator(mode="after")
    def _sensible(self) -> Backup:
        parts = [part for part in (self.database, self.cluster, self.files, self.configuration) if part is not None]
        if not parts:
            raise ValueError("neither database, cluster, files nor configuration: there is nothing to keep")
        prefixes = sorted(part.prefix for part in parts)
        for shorter, longer in pairwise(prefixes):
            if longer.startswith(shorter):
                raise ValueError(f"the prefixes {shorter!r} and {longer!r} overlap")
        if self.files is not None and self.files.bucket == self.bucket:
            raise ValueError(f"files.bucket and bucket are both {self.bucket!r}: that is no second copy")
        if self.least_size > 1 - self.size_band and self.size_band < 1:
            raise ValueError(
                f"least_size ({self.least_size:g}) is inside size_band (±{self.size_band:g}): it would fire first"
            )
        for name, part in (("database", self.database), ("cluster", self.cluster)):
            if part is not None and part.keep <= self.fresh:
                raise ValueError(f"{name}.keep is not longer than fresh: every backup would be old or gone")
            if part is not None and self.object_lock is not None and self.object_lock > part.keep:
                raise ValueError(f"object_lock is longer than {name}.keep: nothing could be deleted in time")
        return self


class Drill(Section):
    """How recovery is rehearsed."""

    where: Literal["staging", "production"] = "staging"
    """Production also asks a person each time, inside the quarterly window."""

    failover: Literal["none", "streaming", "cloudnative_pg", "patroni"] = "none"
    """What switches the primary: nothing, ``pg_ctl promote`` of a streaming standby, or an operator of the cluster."""

    cluster: KubernetesName | None = None
    """Name of the CloudNativePG or Patroni cluster."""

    verified_within: Annotated[Duration, Between("1h", "30d")] = timedelta(hours=24)
    """No drill in production without a backup verified in this time."""

    no_open: Severity = Severity.P1
    """No drill while a finding this bad or worse is open."""

    abort_errors: Share = 0.05
    """A drill is broken off and reverted when more than this share of its probes fail outside the expected gap."""

    gap: Annotated[Duration, Between("1s", "1h")] = timedelta(minutes=5)
    """For this long the platform may be away during failover or application recovery."""

    canary: Annotated[Duration, Between("10ms", "10s")] = timedelta(milliseconds=100)
    """Time between two rows of the canary while a drill runs."""

    most: Annotated[Duration, Between("1m", "2d")] = timedelta(hours=2)
    """A drill still running then is broken off and reverted."""

    @model_validator(mode="after")
    def _cluster(self) -> Drill:
        if self.failover in ("cloudnative_pg", "patroni") and self.cluster is None:
            raise ValueError(f"failover by {self.failover} needs the name of the cluster")
        if self.gap > self.most:
            raise ValueError("gap is longer than the whole drill (most)")
        return self


class Recovery(Section):
    """Promises about losing everything, and how they are put to the test."""

    rto: Annotated[Duration, Between("1m", "30d")]
    """From the decision to restore until the platform is verified to work."""

    rpo: Annotated[Duration, Between("1s", "30d")]
    """So much of the newest data may be lost."""

    severity: Severity = Severity.P1
    """How bad it is when a drill misses one of them."""

    heartbeat: Annotated[Duration, Between("10s", "1h")] = timedelta(minutes=1)
    """Time between two rows of the heartbeat that measures the loss."""

    drill: Drill = Drill()
    """How it is rehearsed, each quarter."""

    @model_validator(mode="after")
    def _measurable(self) -> Recovery:
        if self.heartbeat > self.rpo:
            raise ValueError("heartbeat is longer than rpo: the loss could not be measured")
        return self
