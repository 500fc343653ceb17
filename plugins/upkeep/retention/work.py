"""What deleting rows and dropping partitions share: the owner's session, who is told, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Protocol

from upkeep.postgres.session import Connection, connect

HARD = timedelta(seconds=1)
"""No statement takes longer, and with it no lock on a row."""


@dataclass
class Result:
    """What became of one item."""

    state: Literal["done", "stopped", "failed"] = "done"
    reason: str = ""
    deleted: int = 0
    """By this plan, in earlier attempts too."""

    batches: int = 0
    turns: int = 1
    archives: int = 0
    changed: int = 0
    """Archived rows that somebody changed or locked before they could be deleted; they stay."""

    seconds: float = 0.0
    longest_s: float = 0.0
    """The longest transaction of this attempt."""

    rested_s: float = 0.0
    outages: int = 0


class Record(Protocol):
    """The deletion ledger; ``upkeep.retention.records.Copier``."""

    def tell(self, row: Mapping[str, Any]) -> None:
        """Take over what a transaction has written down."""

    def catch_up(self, connection: Connection) -> None:
        """Take over all that is written down, and remove it there."""


@contextmanager
def session(conninfo: str) -> Iterator[Connection]:
    """As the owner of the tables, in UTC, and made to walk along indexes."""
    settings = {
        "TimeZone": "UTC",
        "DateStyle": "ISO, YMD",
        # A planner with stale statistics must not read the table for each batch.
        "enable_seqscan": "off",
        "enable_bitmapscan": "off",
        "max_parallel_workers_per_gather": "0",
        "jit": "off",
        "plan_cache_mode": "force_custom_plan",
        # A worker that stands still must not hold rows.
        "idle_in_transaction_session_timeout": "10000",
    }
    with connect(conninfo, statement_timeout=HARD, settings=settings) as connection:
        connection.prepare_threshold = None
        yield connection
