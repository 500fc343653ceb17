"""What every report is given, and how it asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from upkeep.platforms.services import Postgres
from upkeep.postgres.advice.memory import Snapshot
from upkeep.postgres.session import Connection, query


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look at a database by one report."""

    connection: Connection
    """As the maintenance role."""

    settings: Postgres

    conninfo: str = ""
    """libpq connection string of that connection; its password opens the standbys as well."""

    earlier: Mapping[str, Snapshot] = field(default_factory=dict)
    """What an earlier run counted, by kind; nothing when there was none, or the ledger is away."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    standbys: Sequence[str] = ()
    """libpq connection strings of the standbys; where nobody named any, they are looked for where they come from."""

    counted: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the next run will want to compare with, by kind; the reports fill it. JSON values only."""

    measured: dict[tuple[str, str], float] = field(default_factory=dict)
    """For trends, by metric and object; the reports fill it."""

    def ask(self, question: str, **parameters: Any) -> list[dict[str, Any]]:
        """The rows of ``include/sql/postgres/advice/<question>.sql``."""
        return self.connection.execute(query(f"advice/{question}"), parameters or None).fetchall()

    def ask_one(self, question: str, **parameters: Any) -> dict[str, Any]:
        """Its only row."""
        (row,) = self.ask(question, **parameters)
        return row


def iso(at: datetime | None) -> str | None:
    """A time as facts and snapshots hold it."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds") if at else None


def moment(text: str | None) -> datetime | None:
    """The reverse of ``iso``."""
    return datetime.fromisoformat(text) if text else None


def day(at: datetime) -> str:
    """A time as findings say it: ``2026-11-14 02:00 UTC``."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
