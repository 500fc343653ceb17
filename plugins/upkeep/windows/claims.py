"""
Whose work covers a window.

Converging work (vacuum, clean-up, a backup of now) that began when a window was already due is done for that window
too. Who does it holds the task's advisory lock in the ledger until it is through, so a dead worker holds nothing; what
it did is one row, by which the others know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from upkeep.ledger import Ledger, Run
from upkeep.ledger.jsonb import text
from upkeep.settings import ROOT

SQL = ROOT / "include" / "sql" / "windows"


@dataclass(frozen=True, kw_only=True)
class Cover:
    """Another run's work that was begun after a window was due."""

    run_id: str
    began_at: datetime
    ended_at: datetime
    carried_by: tuple[str, ...]
    """Tasks that carry out what this one only chose."""

    needed: int
    carried: int
    """Of what it chose, so much has been carried out."""

    @property
    def complete(self) -> bool:
        return self.carried >= self.needed

    def sentence(self, due: datetime) -> str:
        return (
            f"covered by {self.run_id}, which did this work at {self.ended_at:%d %b %H:%M} UTC,"
            f" after this window was due ({due:%d %b %H:%M} UTC)"
        )


def lock_name(run: Run) -> str:
    """What to hold while a converging task works, for ``Ledger.exclusive``."""
    return f"window/{run.dag_id}/{run.task_id}"


def covers(ledger: Ledger, run: Run, due: datetime) -> list[Cover]:
    """
    Whose work covers the window of ``run`` that was due then, the newest first.

    None when this run itself has done it: who clears its task wants it done again.
    """
    done = ledger.rows(
        "select 1 from claims where dag_id = %s and task_id = %s and run_id = %s and state = 'done' limit 1",
        [run.dag_id, run.task_id, run.run_id],
    )
    if done:
        return []
    query = (SQL / "covering.sql").read_text()
    asked = {"dag_id": run.dag_id, "run_id": run.run_id, "task_id": run.task_id, "due": due}
    return [_cover(row) for row in ledger.rows(query, asked)]


def _cover(row: Mapping[str, Any]) -> Cover:
    return Cover(
        run_id=row["run_id"],
        began_at=row["began_at"],
        ended_at=row["ended_at"],
        carried_by=tuple(row["carried_by"]),
        needed=row["needed"],
        carried=row["carried"],
    )


def begin(
    ledger: Ledger, run: Run, due: datetime | None, *, covers: bool, alone: bool, carried_by: Sequence[str] = ()
) -> int:
    """
    Write that the work begins; its number.

    :param covers: whether it counts for other windows, once it is done.
    :param alone: the caller holds the lock, so that whoever is still said to be working is dead.
    """
    with ledger.transaction() as connection:
        if alone:
            connection.execute(
                "update claims set state = 'abandoned', ended_at = clock_timestamp(),"
                " reason = 'its process ended without a word'"
                " where dag_id = %s and task_id = %s and state = 'working'",
                [run.dag_id, run.task_id],
            )
        row = connection.execute(
            "insert into claims (platform, dag_id, run_id, task_id, map_index, due_at, covers, carried_by)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s) returning id",
            [run.platform, run.dag_id, run.run_id, run.task_id, run.map_index, due, covers, list(carried_by)],
        ).fetchone()
    assert row is not None
    return int(row["id"])


def end(ledger: Ledger, number: int, state: str, *, items: int = 0, reason: str = "") -> None:
    """
    Write what became of it: ``done``, ``failed`` or ``skipped``.

    :param items: how many things it chose for others to carry out.
    """
    with ledger.transaction() as connection:
        connection.execute(
            "update claims set state = %s, items = %s, reason = %s, ended_at = clock_timestamp() where id = %s",
            [state, items, text(reason[:2000]), number],
        )


def leave(ledger: Ledger, run: Run, due: datetime, cover: Cover) -> str:
    """Write that there is nothing left to do, and why; the sentence that says so."""
    said = cover.sentence(due)
    with ledger.transaction() as connection:
        connection.execute(
            "insert into claims"
            " (platform, dag_id, run_id, task_id, map_index, due_at, state, covered_by, reason, ended_at)"
            " values (%s, %s, %s, %s, %s, %s, 'covered', %s, %s, clock_timestamp())",
            [run.platform, run.dag_id, run.run_id, run.task_id, run.map_index, due, cover.run_id, said],
        )
    return said


def working(ledger: Ledger, run: Run) -> list[str]:
    """The other runs that are doing this task, or died doing it, as far as the ledger knows."""
    rows = ledger.rows(
        "select distinct run_id from claims"
        " where dag_id = %s and task_id = %s and run_id <> %s and state = 'working' order by run_id",
        [run.dag_id, run.task_id, run.run_id],
    )
    return [row["run_id"] for row in rows]


def stay(ledger: Ledger) -> None:
    """Hold what is held however long it takes; a worker whose machine has died lets go within a minute."""
    wanted = {"idle_session_timeout": 0, "tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10}
    with ledger.transaction() as connection:
        for name, value in {**wanted, "tcp_keepalives_count": 3}.items():
            # Before PostgreSQL 14 there is no limit to lift.
            connection.execute(
                "select set_config(name, %s, false) from pg_settings where name = %s", [str(value), name]
            )
