"""The deletion ledger: what went, without content, so that a restore can remove it again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from upkeep.ledger import Ledger, Run
from upkeep.postgres.session import Connection

COLUMNS = (
    "id", "relation", "plan", "cut_off", "key_column", "condition", "from_key", "to_key", "rows", "ids", "archive",
    "deleted_at",
)  # fmt: skip


def copier(ledger: Ledger, run: Run) -> Callable[[Connection], None]:
    """
    A function that copies what ``upkeep.deletions`` holds to the ledger, and empties it.

    A row is in one of the two or in both, never in none: killed in between, the next copy finds it again and its id
    there already.
    """
    columns = ", ".join(COLUMNS)
    places = ", ".join(f"%({column})s" for column in COLUMNS)

    def copy(connection: Connection) -> None:
        rows = connection.execute(f"select {columns} from upkeep.deletions order by deleted_at").fetchall()
        if not rows:
            return
        mine = {"platform": run.platform, "dag_id": run.dag_id, "run_id": run.run_id}
        with ledger.transaction() as target, target.cursor() as cursor:
            cursor.executemany(
                f"insert into deletions (platform, dag_id, run_id, {columns})"
                f" values (%(platform)s, %(dag_id)s, %(run_id)s, {places}) on conflict (id) do nothing",
                [{**mine, **row} for row in rows],
            )
        forget(connection, [row["id"] for row in rows])

    return copy


def forget(connection: Connection, ids: Sequence[UUID]) -> None:
    """What the ledger has need not be kept twice."""
    connection.execute("delete from upkeep.deletions where id = any(%s)", [list(ids)])


def export(ledger: Ledger, client: Any, bucket: str, platform: str, relation: str, plan: str) -> str:
    """The records of one table and plan as JSON lines in S3, where they outlive the ledger; its key, or ``""``."""
    rows = ledger.rows(
        f"select platform, {', '.join(COLUMNS)} from deletions"
        " where platform = %s and relation = %s and plan = %s order by deleted_at",
        [platform, relation, plan],
    )
    if not rows:
        return ""
    key = f"retention/deletions/{platform}/{relation}/{plan[:16]}.jsonl"
    body = "".join(json.dumps(row, default=str) + "\n" for row in rows).encode()
    client.put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/x-ndjson")
    return key
