"""A drill in the ledger: written before anything is done, phase by phase: whoever finds it knows where it was."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from upkeep.errors import LedgerError
from upkeep.ledger import Ledger, Run
from upkeep.ledger.jsonb import jsonb, text

log = logging.getLogger(__name__)

Act = Literal["restoration", "failover", "application"]
Verdict = Literal["pending", "passed", "failed", "unknown", "stopped"]
Environment = Literal["staging", "production"]


@dataclass(frozen=True)
class Phase:
    """One part of a drill, by its own clock."""

    name: str
    began: datetime
    seconds: float


@dataclass
class Drill:
    """One scenario being rehearsed."""

    ledger: Ledger
    id: int
    platform: str
    act: Act
    scenario: str
    environment: Environment
    started: datetime
    phases: list[Phase] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """What was used, seen and written down; JSON values only, no secrets."""

    rto_s: float | None = None
    rpo_s: float | None = None
    source_bytes: int | None = None
    verdicts: dict[str, Verdict] = field(
        default_factory=lambda: {"act": "pending", "validation": "pending", "cleanup": "pending"}
    )
    reason: str = ""
    undo: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a part of it; its name is in the ledger before it begins."""
        self.watch(name)
        began, clock = datetime.now(UTC), time.monotonic()
        try:
            yield
        finally:
            self.timed(name, began, time.monotonic() - clock)

    def timed(self, name: str, began: datetime, seconds: float) -> None:
        """A part of it that was timed elsewhere."""
        self.phases.append(Phase(name, began, round(seconds, 3)))

    def watch(self, name: str) -> None:
        """A part begins that times itself. Without the ledger it begins all the same: a broken pair must be mended."""
        try:
            self._write("phase = %s", name)
        except LedgerError as away:
            log.error("drill %d: phase %s is not on record: %s", self.id, name, away.message)

    def remember(self, thing: Mapping[str, Any]) -> None:
        """Before something is changed: how it was, for the janitor."""
        self.undo.append(dict(thing))
        self._write("undo = %s", jsonb(self.undo))

    def forget(self) -> None:
        """All is as it was. Where that cannot be written, the janitor finds nothing to do."""
        self.undo.clear()
        try:
            self._write("undo = '[]'")
        except LedgerError as away:
            log.error("drill %d: that all is put back is not on record: %s", self.id, away.message)

    def deviates(self, what: str) -> None:
        """Something was not as the scenario has it; the report says so."""
        self.facts.setdefault("deviations", []).append(what)

    def fail(self, part: str, why: str) -> None:
        """The first reason is the one that is told."""
        self.verdicts[part] = "failed"
        self.reason = self.reason or why

    def stop(self, why: str) -> None:
        """Something ended it before its end."""
        self.reason = self.reason or why
        for part, verdict in self.verdicts.items():
            if verdict == "pending":
                self.verdicts[part] = "unknown" if part == "cleanup" else "stopped"

    @property
    def passed(self) -> bool:
        return all(verdict == "passed" for verdict in self.verdicts.values())

    def save(self, *, over: bool) -> None:
        """Write all of it down."""
        phases = [{"name": one.name, "began": one.began.isoformat(), "seconds": one.seconds} for one in self.phases]
        with self.ledger.transaction() as connection:
            connection.execute(
                "update drills set phases = %s, facts = %s, rto_s = %s, rpo_s = %s, source_bytes = %s,"
                " act_verdict = %s, validation_verdict = %s, cleanup_verdict = %s, reason = %s,"
                " phase = case when %s then '' else phase end,"
                " ended_at = case when %s then clock_timestamp() end where id = %s",
                [
                    jsonb(phases), jsonb(self.facts), self.rto_s, self.rpo_s, self.source_bytes,
                    self.verdicts["act"], self.verdicts["validation"], self.verdicts["cleanup"],
                    text(self.reason[:2000]), over, over, self.id,
                ],
            )  # fmt: skip

    def _write(self, change: Literal["phase = %s", "undo = %s", "undo = '[]'"], *values: Any) -> None:
        with self.ledger.transaction() as connection:
            connection.execute(f"update drills set {change} where id = %s", [*values, self.id])


def begin(
    ledger: Ledger,
    run: Run,
    act: Act,
    scenario: str,
    environment: Environment,
    *,
    rto_s: float,
    rpo_s: float,
    actor: str = "",
    approved_by: str = "",
) -> Drill:
    """
    A drill that is about to begin.

    :param rto_s: the platform's target in seconds, and ``rpo_s``.
    """
    with ledger.transaction() as connection:
        row = connection.execute(
            "insert into drills (platform, act, scenario, environment, actor, approved_by, dag_id, run_id, task_id,"
            " rto_target_s, rpo_target_s) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
            " returning id, started_at",
            [
                run.platform, act, scenario, environment, text(actor), text(approved_by), run.dag_id, run.run_id,
                run.task_id, rto_s, rpo_s,
            ],
        ).fetchone()  # fmt: skip
    assert row is not None
    return Drill(ledger, row["id"], run.platform, act, scenario, environment, row["started_at"])


def lock(platform: str) -> str:
    """What a drill holds while it runs, for ``Ledger.exclusive``: one at a time per platform."""
    return f"drill/{platform}"


def unfinished(ledger: Ledger, platform: str) -> list[dict[str, Any]]:
    """Drills that never ended, or left something to put back. Who asks holds the lock: their processes are dead."""
    return ledger.rows(
        "select * from drills where platform = %s and (ended_at is null or undo <> '[]') order by id", [platform]
    )


def settled(ledger: Ledger, id: int, *, cleanup: Verdict, reason: str) -> None:
    """What a dead drill left is put back, or could not be."""
    with ledger.transaction() as connection:
        connection.execute(
            "update drills set ended_at = coalesce(ended_at, clock_timestamp()), cleanup_verdict = %s,"
            " act_verdict = case act_verdict when 'pending' then 'stopped' else act_verdict end,"
            " validation_verdict = case validation_verdict when 'pending' then 'stopped' else validation_verdict end,"
            " reason = case reason when '' then %s else reason end,"
            " undo = case when %s = 'passed' then '[]' else undo end where id = %s",
            [cleanup, text(reason[:2000]), cleanup, id],
        )


def history(ledger: Ledger, platform: str, act: Act, scenario: str, most: int = 24) -> Sequence[dict[str, Any]]:
    """The last drills of this kind that recovered something, oldest first."""
    rows = ledger.rows(
        "select id, started_at, rto_s, rpo_s, rto_target_s, rpo_target_s, source_bytes, act_verdict,"
        " validation_verdict, cleanup_verdict from drills where platform = %s and act = %s and scenario = %s"
        " and rto_s is not null order by started_at desc limit %s",
        [platform, act, scenario, most],
    )
    return rows[::-1]
