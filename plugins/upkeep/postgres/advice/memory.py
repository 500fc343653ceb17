"""What earlier runs counted, kept in the ledger, and how much the counters have grown since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from upkeep.ledger import Ledger, Run
from upkeep.ledger.jsonb import jsonb

KEPT = timedelta(days=400)
"""Snapshots older than this are forgotten."""


@dataclass(frozen=True)
class Snapshot:
    """What one report counted in one run."""

    at: datetime
    content: Mapping[str, Any]


def earlier(ledger: Ledger, run: Run) -> dict[str, Snapshot]:
    """
    The newest snapshot of each kind that an earlier run of the same Dag left: ``{"statements": …}``.

    A run that is repeated compares with the same snapshots again, so it says the same again.
    """
    rows = ledger.rows(
        "select distinct on (kind) kind, at, content from snapshots"
        " where platform = %s and dag_id = %s and run_id <> %s order by kind, at desc",
        [run.platform, run.dag_id, run.run_id],
    )
    return {row["kind"]: Snapshot(row["at"], row["content"]) for row in rows}


def keep(ledger: Ledger, run: Run, contents: Mapping[str, Mapping[str, Any]], at: datetime) -> None:
    """Store what the reports of this run counted, for the next run; of a run that is repeated the last counts."""
    with ledger.transaction() as connection:
        for kind, content in contents.items():
            connection.execute(
                "insert into snapshots (platform, kind, dag_id, run_id, at, content) values (%s, %s, %s, %s, %s, %s)"
                " on conflict (platform, kind, dag_id, run_id) do update set at = excluded.at,"
                " content = excluded.content",
                [run.platform, kind, run.dag_id, run.run_id, at, jsonb(dict(content))],
            )
        connection.execute("delete from snapshots where platform = %s and at < %s", [run.platform, at - KEPT])


def grown(now: Mapping[str, float | None], before: Mapping[str, float | None] | None) -> dict[str, float | None]:
    """
    How much each counter grew.

    A counter that went backwards began anew in between, and the others of the same thing with it: then all that
    they show is new, and nothing is ever negative. A counter that this version does not have is None.
    """
    if before is None or began_anew(now, before):
        return dict(now)
    return {name: None if value is None else value - (before.get(name) or 0) for name, value in now.items()}


def began_anew(now: Mapping[str, float | None], before: Mapping[str, float | None]) -> bool:
    """Whether any counter went backwards: its statistics were reset, or lost in a crash, or are another server's."""
    return any(value is not None and value < (before.get(name) or 0) for name, value in now.items())


def per_day(amount: float, since: datetime | None, now: datetime) -> float | None:
    """``amount`` as a rate; None for a time too short to tell (an hour) or unknown."""
    if since is None or now - since < timedelta(hours=1):
        return None
    return amount / ((now - since) / timedelta(days=1))
