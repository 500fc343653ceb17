"""The ledger's table of backups: one row per committed manifest, and what was found out about it since."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, LiteralString

from upkeep.backup.manifest import Kind, Manifest
from upkeep.errors import LedgerError
from upkeep.ledger import Ledger
from upkeep.ledger.jsonb import jsonb


def remember(ledger: Ledger, bucket: str, prefix: str, manifest: Manifest, *, sha256: str = "") -> None:
    """
    Put a committed backup on record; one that is there already stays as it is.

    :param sha256: of its ``manifest.json``, as ``manifest.commit`` returns it.
    """
    database = manifest.database
    with ledger.transaction() as connection:
        connection.execute(
            "insert into backups (platform, id, kind, engine, bucket, prefix, started_at, finished_at, bytes,"
            " source_bytes, server_version, client_version, manifest_sha256, dag_id, run_id)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
            [
                manifest.platform, manifest.id, manifest.kind, manifest.engine, bucket, prefix, manifest.started,
                manifest.finished, manifest.size, database.source_bytes if database else None,
                database.server_version if database else None, database.client_version if database else None,
                sha256 or hashlib.sha256(manifest.json_bytes()).hexdigest(), manifest.dag_id, manifest.run_id,
            ],
        )  # fmt: skip


def of(ledger: Ledger, platform: str, kind: Kind) -> dict[str, Mapping[str, Any]]:
    """Every backup of a kind that is on record and not deleted, by id."""
    found = ledger.rows(
        "select * from backups where platform = %s and kind = %s and deleted_at is null order by finished_at",
        [platform, kind],
    )
    return {row["id"]: row for row in found}


def proved(ledger: Ledger, platform: str, id: str, **facts: Any) -> None:
    """An archive was read back, and each file in it was what went in: its bytes and its content are verified."""
    with ledger.transaction() as connection:
        connection.execute(
            "update backups set bytes_state = 'verified', bytes_at = clock_timestamp(), bytes_reason = '',"
            " content_state = 'verified', content_at = clock_timestamp(), content_reason = '', content_facts = %s"
            " where platform = %s and id = %s",
            [jsonb(facts), platform, id],
        )


def mark(ledger: Ledger, platform: str, id: str) -> None:
    """Past its time: deleted later. One that is marked already keeps its time."""
    _update(ledger, "marked_at = coalesce(marked_at, clock_timestamp())", platform, id)


def unmark(ledger: Ledger, platform: str, id: str) -> None:
    """It stays after all, and a yes to its deletion is void."""
    _update(ledger, "marked_at = null, approved_plan = null", platform, id)


def approve(ledger: Ledger, platform: str, id: str, plan: str) -> None:
    """A person said yes to its deletion, by the digest of the plan."""
    _update(ledger, "approved_plan = %s", platform, id, plan)


def pin(ledger: Ledger, platform: str, id: str, until: datetime | None, because: str) -> None:
    """Nobody deletes it until then; None takes the pin away."""
    _update(ledger, "pinned_until = %s, pinned_because = %s", platform, id, until, because)


def hold(ledger: Ledger, platform: str, id: str, on: bool, because: str) -> None:
    """A legal hold: nobody deletes it until the hold is lifted."""
    _update(ledger, "legal_hold = %s, pinned_because = %s", platform, id, on, because)


def deleted(ledger: Ledger, platform: str, id: str) -> None:
    """Nothing of it is left."""
    _update(ledger, "deleted_at = clock_timestamp()", platform, id)


def may_go(ledger: Ledger, platform: str, id: str) -> bool:
    """Whether it is still marked, and nobody has pinned or held it since the plan was made."""
    found = ledger.rows(
        "select from backups where platform = %s and id = %s and marked_at is not null and not legal_hold"
        " and (pinned_until is null or pinned_until <= clock_timestamp())",
        [platform, id],
    )
    return bool(found)


def _update(ledger: Ledger, change: LiteralString, platform: str, id: str, *values: Any) -> None:
    with ledger.transaction() as connection:
        query = f"update backups set {change} where platform = %s and id = %s and deleted_at is null returning id"
        if connection.execute(query, [*values, platform, id]).fetchone() is None:
            raise LedgerError(f"no backup {id!r} of {platform} is on record", hint="list the backups; one may be gone.")
