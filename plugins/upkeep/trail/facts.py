"""Which facts of the ledger are sealed, when they are over, and what of them counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """
    One table. All expressions are SQL over its row ``f``, and ours.

    ``columns`` are never changed: a digest is of exactly these. What should count in addition is a source of its own.
    """

    table: str
    columns: tuple[str, ...]
    at: str
    """When it was over; rows are looked for by it."""

    id: str = "f.id::text"
    over: str = "true"
    version: str = "''"
    """What differs when the fact went on; then it is sealed again."""

    @property
    def query(self) -> str:
        """``id, version, at, digest`` of every fact that is over."""
        values = ", ".join(f"f.{column}" for column in self.columns)
        return (
            f"select {self.id} as id, {self.version} as version, {self.at} as at,"
            f" encode(sha256(convert_to(jsonb_build_array({values})::text, 'UTF8')), 'hex') as digest"
            f" from {self.table} as f where {self.over}"
        )


def _moment(column: str) -> str:
    """The same text in every time zone; nothing for a moment that has not come."""
    return f"coalesce(extract(epoch from f.{column})::text, '')"


SOURCES: Mapping[str, Facts] = {
    "plans": Facts(
        "plans",
        ("platform", "capability", "dag_id", "run_id", "task_id", "items", "digest", "dry_run", "created_at"),
        at="f.created_at",
    ),
    "actions": Facts(
        "actions",
        (
            "plan_id", "platform", "capability", "verb", "object", "dag_id", "run_id", "task_id", "map_index",
            "try_number", "state", "before", "after", "reason", "started_at", "ended_at",
        ),
        at="f.ended_at",
        over="f.state <> 'open' and f.ended_at is not null",
    ),
    "deletions": Facts(
        "deletions",
        (
            "platform", "relation", "plan", "cut_off", "key_column", "condition", "from_key", "to_key", "rows", "ids",
            "archive", "deleted_at", "dag_id", "run_id", "recorded_at",
        ),
        at="f.recorded_at",
    ),
    "finding_events": Facts(
        "finding_events",
        ("key", "event", "severity", "summary", "dag_id", "run_id", "task_id", "at"),
        at="f.at",
    ),
    # Their own chain holds the lines of one incident together; this one says that there were so many.
    "timeline": Facts(
        "timeline",
        ("incident_id", "number", "at", "hash"),
        at="f.at",
        id="f.incident_id || '/' || f.number",
    ),
    "backups": Facts(
        "backups",
        (
            "platform", "id", "kind", "engine", "bucket", "prefix", "started_at", "finished_at", "bytes",
            "manifest_sha256", "dag_id", "run_id", "recorded_at",
        ),
        at="f.recorded_at",
        id="f.platform || '/' || f.id",
    ),
    "proofs": Facts(
        "backups",
        ("platform", "id", "manifest_sha256", "content_state", "content_at", "content_reason", "content_facts"),
        at="f.content_at",
        id="f.platform || '/' || f.id",
        over="f.content_at is not null",
        version=_moment("content_at"),
    ),
    "restores": Facts(
        "restores",
        ("platform", "backup", "asked", "live", "made", "before", "actor", "dag_id", "run_id", "asked_at"),
        at="f.asked_at",
    ),
    "drills": Facts(
        "drills",
        (
            "platform", "act", "scenario", "environment", "actor", "approved_by", "dag_id", "run_id", "started_at",
            "ended_at", "phases", "rto_s", "rpo_s", "act_verdict", "validation_verdict",
        ),
        at="f.ended_at",
        # The janitor may clean up much later: its verdict is not part of what is sealed here.
        over="f.ended_at is not null",
    ),
    "waivers": Facts(
        "waivers",
        ("platform", "key", "severity", "summary", "owner", "reason", "starts_at", "until", "ended_by"),
        at="case f.ended_by when '' then f.starts_at else f.until end",
        version="f.ended_by",
    ),
    "silences": Facts(
        "silences",
        # Not `until`: who ends one early moves it.
        ("platform", "pattern", "owner", "reason", "starts_at", "created_at"),
        at="f.created_at",
    ),
}  # fmt: skip
"""By the name that stands in the trail."""
