"""Plans, stored before anything is done, and actions, recorded before and after."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from upkeep.ledger.jsonb import jsonb
from upkeep.ledger.run import Connection, Run


@dataclass(frozen=True)
class Plan:
    """What will be done; ``digest`` is the SHA-256 of the items, so a deed can be held against its plan."""

    id: UUID
    items: tuple[Mapping[str, Any], ...]
    digest: str
    dry_run: bool


@dataclass
class Action:
    """One thing being done now."""

    id: int
    after: dict[str, Any] = field(default_factory=dict)
    """What it came to; the block fills it, and it is written when the block ends, well or not."""

    skipped: str = ""

    def skip(self, reason: str) -> None:
        """It turned out not to be needed or not to be possible now; that is no failure."""
        self.skipped = reason


def store_plan(
    connection: Connection, run: Run, capability: str, items: Sequence[Mapping[str, Any]], *, dry_run: bool
) -> Plan:
    digest = hashlib.sha256(json.dumps(list(items), sort_keys=True, default=str).encode()).hexdigest()
    row = connection.execute(
        "insert into plans (platform, capability, dag_id, run_id, task_id, items, digest, dry_run)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s) returning id",
        [run.platform, capability, run.dag_id, run.run_id, run.task_id, jsonb(list(items)), digest, dry_run],
    ).fetchone()
    assert row is not None
    return Plan(row["id"], tuple(items), digest, dry_run)


def begin(
    connection: Connection,
    run: Run,
    capability: str,
    verb: str,
    object: str,
    *,
    plan: Plan | None,
    before: Mapping[str, Any],
) -> Action:
    # Whoever left this open is dead: one server's work is never done twice at once (pools, locks).
    connection.execute(
        "update actions set state = 'abandoned', ended_at = clock_timestamp(), reason = 'its process died'"
        " where platform = %s and capability = %s and verb = %s and object = %s and state = 'open'",
        [run.platform, capability, verb, object],
    )
    row = connection.execute(
        "insert into actions (plan_id, platform, capability, verb, object, dag_id, run_id, task_id, map_index,"
        " try_number, before) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) returning id",
        [
            plan.id if plan else None, run.platform, capability, verb, object, run.dag_id, run.run_id, run.task_id,
            run.map_index, run.try_number, jsonb(dict(before)),
        ],
    ).fetchone()  # fmt: skip
    assert row is not None
    return Action(row["id"])


def end(connection: Connection, action: Action, state: str, *, reason: str = "") -> None:
    connection.execute(
        "update actions set state = %s, after = %s, reason = %s, ended_at = clock_timestamp() where id = %s",
        [state, jsonb(action.after), reason, action.id],
    )
