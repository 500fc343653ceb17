"""The ledger's table of backups: one row per committed manifest, and what was found out about it since."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from upkeep.backup.manifest import Kind, Manifest
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
