"""What verification found out about a backup, in the ledger; and which throw-away clusters may still lie somewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from upkeep.backup.faults import Fault
from upkeep.ledger import Ledger, Run
from upkeep.ledger.jsonb import jsonb, text

Tier = Literal["bytes", "content"]


def write(ledger: Ledger, platform: str, id: str, tier: Tier, faults: Sequence[Fault], facts: dict[str, Any]) -> None:
    """``verified`` or ``broken``, when, and why."""
    reason = "; ".join(fault.said for fault in faults)[:2000]
    state = "broken" if faults else "verified"
    with ledger.transaction() as connection:
        if tier == "bytes":
            connection.execute(
                "update backups set bytes_state = %s, bytes_at = clock_timestamp(), bytes_reason = %s"
                " where platform = %s and id = %s",
                [state, text(reason), platform, id],
            )
        else:
            connection.execute(
                "update backups set content_state = %s, content_at = clock_timestamp(), content_reason = %s,"
                " content_facts = %s where platform = %s and id = %s",
                [state, text(reason), jsonb(facts), platform, id],
            )


def manifest_sha256(ledger: Ledger, platform: str, id: str) -> str:
    """Of the manifest as it was written; empty when this backup is not on record."""
    rows = ledger.rows("select manifest_sha256 from backups where platform = %s and id = %s", [platform, id])
    return str(rows[0]["manifest_sha256"]) if rows else ""


def scratch_made(ledger: Ledger, run: Run, path: Path, host: str, backup: str) -> None:
    """On record before there is anything in it: its owner may die, and it holds production's data."""
    with ledger.transaction() as connection:
        connection.execute(
            "insert into scratches (id, platform, backup, host, path, dag_id, run_id)"
            " values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
            [f"{host}:{path.name}", run.platform, backup, host, str(path), run.dag_id, run.run_id],
        )


def scratch_removed(ledger: Ledger, path: Path, host: str) -> None:
    with ledger.transaction() as connection:
        connection.execute(
            "update scratches set removed_at = clock_timestamp() where id = %s and removed_at is null",
            [f"{host}:{path.name}"],
        )


def scratches(ledger: Ledger, platform: str) -> list[dict[str, Any]]:
    """Those of which nobody has said that they are gone."""
    return ledger.rows(
        "select * from scratches where platform = %s and removed_at is null order by made_at", [platform]
    )
