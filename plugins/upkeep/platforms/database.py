"""The ``postgres`` section: what is judged, how tables and indexes are cared for, how long rows are kept."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator, model_validator

from upkeep.findings import Severity
from upkeep.platforms.base import (
    Between,
    BucketName,
    Bytes,
    Count,
    Duration,
    Name,
    Rising,
    Section,
    Share,
    ShareUsed,
    TableName,
    Threshold,
    distinct,
)


class Reindex(Section):
    """Which indexes are rebuilt, one at a time and concurrently; never a whole database."""

    bloat: Share = 0.30
    """Rebuilt from this share of wasted space on (GitLab 20 %, Ola Hallengren 30 %)."""

    wasted: Bytes = Field(default="10MiB", validate_default=True)
    """… and only when at least this much would be freed."""

    not_again: Annotated[Duration, Between("1d", "1y")] = timedelta(days=10)
    """An index is left alone this long after a rebuild: one that refills in days has another illness."""

    disk_headroom: float = Field(default=1.2, ge=1.0, le=10)
    """Free disk there must be, in times the size of the new index, its WAL not counted; unknown means no rebuild."""

    old_transaction: Annotated[Duration, Between("1s", "1h")] = timedelta(minutes=5)
    """No rebuild begins while a transaction this old would keep it waiting; younger ones are waited for."""

    workers: int = Field(default=0, ge=0, le=16)
    """Parallel workers of one rebuild beside its own process; 0 leaves the other cores to the application."""

    most_indexes: int = Field(default=50, ge=1, le=1000)
    """At most this many in one window, the most bytes per second first."""

    skip: tuple[Annotated[str, Field(min_length=1, max_length=127)], ...] = ("repack.*", "pgq.*")
    """Shell patterns of indexes, with their schema, that are never rebuilt."""


class Deletion(Section):
    """How expired rows are deleted: small transactions, each as long as ``batch``."""

    batch: Annotated[Duration, Between("10ms", "1s")] = timedelta(milliseconds=250)
    """Time that one transaction should take; the number of rows follows from it."""

    least_rows: int = Field(default=500, ge=1, le=50_000)
    """A transaction deletes at least this many."""

    most_rows: int = Field(default=50_000, ge=1, le=1_000_000)
    """… and at most this many."""

    rest: float = Field(default=0.5, ge=0, le=100)
    """Pause after each transaction, in times its length; pgcompacttable rests 2 by day and 0 by night."""

    archive_bucket: BucketName | None = None
    """Where rows with ``archive: true`` go, written through ``{platform}_backup_s3``; none means ``backup.bucket``."""

    most_share: Share = 0.5
    """The standing yes ends here: deleting more than this share of a table asks a person first."""

    most_times_usual: float = Field(default=3.0, ge=1, le=100)
    """… as does more than this many times the usual number of rows."""

    @model_validator(mode="after")
    def _rows(self) -> Deletion:
        if self.least_rows > self.most_rows:
            raise ValueError(f"least_rows ({self.least_rows}) is more than most_rows ({self.most_rows})")
        return self


class Advice(Section):
    """From where on the reports for the database's owner mention something."""

    slow_query: Annotated[Duration, Between("1ms", "1h")] = timedelta(seconds=1)
    """A statement that takes longer on average is listed."""

    least_calls: Count = 10
    """… when it was called this often since the last look."""

    top: int = Field(default=20, ge=1, le=500)
    """Statements per report, by total time."""

    observed: Annotated[Duration, Between("1d", "1y")] = timedelta(days=30)
    """An index is called unused only after this long without a scan, and without a reset of the statistics."""

    sequence: Share = 0.85
    """Share of a sequence's values in use that is a finding (check_postgres: 85 %)."""

    stale_statistics: Share = 0.5
    """Share of a table's rows changed since its last ANALYZE that is a finding."""

    accepted: dict[
        Annotated[str, Field(min_length=1, max_length=300)], Annotated[str, Field(min_length=3, max_length=300)]
    ] = Field(default_factory=dict)
    """What is known and meant to stay, with the reason: ``{public.bookings_by_year: the yearly report}``, a setting, a
    query's id. What would be P0 is told all the same."""


class Vacuum(Section):
    """How VACUUM and ANALYZE behave towards the application."""

    least_score: float = Field(default=1.0, ge=0.1, le=100)
    """Tables are cared for from this score on; 1 is where autovacuum would begin (score as in PostgreSQL 19)."""

    most_tables: int = Field(default=200, ge=1, le=1000)
    """At most this many in one window, the neediest first."""

    lock_timeout: Annotated[Duration, Between("10ms", "1m")] = timedelta(seconds=2)
    """A table that is locked for longer is skipped and reported."""

    cost_limit: int = Field(default=2000, ge=1, le=10000)
    """Work between two pauses, in PostgreSQL's cost units."""

    cost_delay: Annotated[Duration, Between("0.1ms", "100ms")] = timedelta(milliseconds=2)
    """Pause after each ``cost_limit``; PostgreSQL's own default for a manual VACUUM is none at all."""

    statement_timeout: Annotated[Duration, Between("1s", "1d")] = timedelta(minutes=30)
    """One table may take this long."""


def _condition(sql: str) -> str:
    if ";" in sql or "--" in sql or "/*" in sql or sql.count("(") != sql.count(")"):
        raise ValueError("one SQL condition: no ; and no comment, parentheses in pairs")
    return sql


Condition = Annotated[str, Field(max_length=1000), AfterValidator(_condition)]


class Retention(Section):
    """How long rows of one table are kept; rows older than that may be deleted without asking, within the cap."""

    column: str = Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    """The timestamp that ages."""

    keep: Annotated[Duration, Between("1d", "100y")]
    """Age from which a row is expired; ``3y`` are 1098 days, so nothing goes too early."""

    only: Condition = ""
    """SQL condition that a row must meet as well: ``status = 'inactive'``."""

    hold: Condition = ""
    """SQL condition of rows under legal hold: never deleted."""

    archive: bool = False
    """Copy to S3 before deleting, and delete only what arrived."""

    drop_partitions: bool = False
    """Detach and drop whole expired partitions instead of deleting their rows, where the key is ``column``."""


class Table(Section):
    """One table of the application that maintenance must know by name."""

    name: TableName
    """In the search path, or with its schema: ``audit.events``."""

    retention: Retention | None = None
    """When its rows expire; without one they never do."""


class Query(Section):
    """A question of the application whose answer proves that the data is whole."""

    name: Name
    """What reports call it."""

    sql: str = Field(min_length=8, max_length=4000)
    """One read-only SELECT that returns one row and one column."""

    at_least: float | None = None
    """The answer must be this or more."""

    @field_validator("sql")
    @classmethod
    def _reads_only(cls, value: str) -> str:
        if not re.match(r"(?is)^\s*(select|with)\b", value) or ";" in value.rstrip().rstrip(";"):
            raise ValueError("one SELECT, and nothing after it")
        return value


class Postgres(Section):
    """The database behind ``{platform}_postgres`` (maintenance role) and ``{platform}_postgres_owner``."""

    severity: Severity = Severity.P0
    """How bad it is when the database cannot be used."""

    connections: ShareUsed = Threshold(warn=0.8, critical=0.9, warn_severity=Severity.P2)
    """Share of ``max_connections`` less the reserved ones."""

    long_query: Duration = timedelta(minutes=5)
    """A statement running longer is a finding."""

    idle_in_transaction: Duration = timedelta(minutes=5)
    """A session idle inside a transaction longer than this is a finding: it holds locks and the old xmin."""

    activity_severity: Severity = Severity.P2
    """Of long statements and idle transactions; one step worse when somebody waits for them."""

    standbys: int = Field(default=0, ge=0, le=16)
    """How many streaming standbys there must be."""

    replication_lag: Rising = Threshold(warn=10, critical=60, warn_severity=Severity.P2)
    """Seconds a standby may be behind."""

    replication_severity: Severity = Severity.P1
    """How bad a missing standby is."""

    slot_retained: Bytes = Field(default="1GiB", validate_default=True)
    """WAL that an inactive replication slot may hold back."""

    xid_age: ShareUsed = Threshold(warn=0.5, critical=0.75, warn_severity=Severity.P1, critical_severity=Severity.P0)
    """Share of the two billion transaction ids in use: wraparound."""

    vacuum: Vacuum = Vacuum()
    """Which tables are vacuumed and analysed, and how gently."""

    reindex: Reindex = Reindex()
    """Which indexes are rebuilt."""

    deletion: Deletion = Deletion()
    """How expired rows are deleted."""

    advice: Advice = Advice()
    """What is worth telling the owner."""

    tables: tuple[Table, ...] = ()
    """Tables that maintenance must know by name."""

    queries: tuple[Query, ...] = ()
    """Run after every restore."""

    @field_validator("tables", "queries")
    @classmethod
    def _distinct(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return distinct(value, "name")
