"""Who keeps dead rows from being removed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from upkeep.health.postgres_server import span
from upkeep.postgres.session import Connection, query

OLD = timedelta(minutes=5)
OLD_TRANSACTIONS = 1_000_000
"""From here on whoever holds the oldest snapshot is named: sessions by time; slots in use by transactions."""


@dataclass(frozen=True)
class Holder:
    """Whatever holds the oldest snapshot that VACUUM has to respect."""

    kind: str
    """``session``, ``standby``, ``slot`` or ``prepared transaction``."""

    name: str
    pid: int | None
    transactions: int
    """How many transactions began since."""

    since: datetime | None
    """None for slots that are in use, and for all slots before PostgreSQL 17."""

    def __str__(self) -> str:
        """``session app api (pid 4711), 1,204 transactions behind, for 12 min``."""
        pid = f" (pid {self.pid})" if self.pid else ""
        held = f", for {span((datetime.now(UTC) - self.since).total_seconds())}" if self.since else ""
        return f"{self.kind} {self.name or 'without a name'}{pid}, {self.transactions:,} transactions behind{held}"


def old_snapshot(
    connection: Connection, older_than: timedelta = OLD, transactions: int = OLD_TRANSACTIONS
) -> Holder | None:
    """Who keeps dead rows from being removed, if that goes on for long."""
    row = connection.execute(query("oldest_xmin")).fetchone()
    if row is None:
        return None
    holder = Holder(row["kind"], row["name"], row["pid"], row["transactions"], row["since"])
    if holder.since is not None:
        return holder if datetime.now(UTC) - holder.since >= older_than else None
    return holder if holder.transactions >= transactions else None
