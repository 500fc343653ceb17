"""The deletion ledger: what went, without content, so that a restore can remove it again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from upkeep.ledger import Ledger, Run
from upkeep.postgres.session import Connection
from upkeep.retention.work import Record

COLUMNS = (
    "id", "relation", "plan", "cut_off", "key_column", "condition", "from_key", "to_key", "rows", "ids", "archive",
    "deleted_at",
)  # fmt: skip


class Copier:
    """
    Copies what ``upkeep.deletions`` holds to the ledger, and removes it there.

    A row is in one of the two or in both, never in none: killed in between, the next copy finds it again, and its id
    in the ledger already.
    """

    def __init__(self, ledger: Ledger, run: Run) -> None:
        self.ledger = ledger
        self.mine = {"platform": run.platform, "dag_id": run.dag_id, "run_id": run.run_id}

    def tell(self, *rows: Mapping[str, Any]) -> None:
        """:raises LedgerError: the ledger is away; the rows stay where they are."""
        names = ("platform", "dag_id", "run_id", *COLUMNS)
        places = ", ".join(f"%({name})s" for name in names)
        statement = f"insert into deletions ({', '.join(names)}) values ({places}) on conflict (id) do nothing"
        with self.ledger.transaction() as target, target.cursor() as cursor:
            cursor.executemany(statement, [{**self.mine, **row} for row in rows])

    def catch_up(self, connection: Connection) -> None:
        """All rows; ``connection`` is the owner's, in no transaction."""
        columns = ", ".join(COLUMNS)
        rows = connection.execute(f"select {columns} from upkeep.deletions order by deleted_at").fetchall()
        if rows:
            self.tell(*rows)
            forget(connection, [row["id"] for row in rows])


class Behind:
    """
    Tells a record while the next transaction deletes: one transaction behind, never two.

    A trouble of the record's is raised at its next call.
    """

    def __init__(self, record: Record, thread: ThreadPoolExecutor) -> None:
        self._record, self._thread = record, thread
        self._telling: Future[None] | None = None

    def tell(self, row: Mapping[str, Any]) -> None:
        self._told()
        self._telling = self._thread.submit(self._record.tell, row)

    def catch_up(self, connection: Connection) -> None:
        self._told()
        self._record.catch_up(connection)

    def _told(self) -> None:
        if self._telling is not None:
            telling, self._telling = self._telling, None
            telling.result()


@contextmanager
def behind(record: Record) -> Iterator[Behind]:
    """``record``, told on a thread of its own, which is done with it at the end."""
    with ThreadPoolExecutor(1, "deletion-ledger") as thread:
        yield Behind(record, thread)


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
