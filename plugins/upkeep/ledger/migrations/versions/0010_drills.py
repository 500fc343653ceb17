"""What rehearsing recovery leaves behind."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"

DRILLS = """
-- One row per scenario that was rehearsed, written before anything is done.
create table drills (
    id bigint generated always as identity primary key,
    platform text not null,
    act text not null check (act in ('restoration', 'failover', 'application')),
    -- `newest`, `older`, `point_in_time`; `kill`, `switchover`; `pods`.
    scenario text not null,
    environment text not null check (environment in ('staging', 'production')),
    actor text not null,
    approved_by text not null default '',
    dag_id text not null,
    run_id text not null,
    task_id text not null,
    started_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    -- What is being done now; of a drill that was killed, what was being done then.
    phase text not null default '',
    -- [{"name": "load", "began": "2026-11-14T02:00:03Z", "seconds": 4.2}]
    phases jsonb not null default '[]',
    rto_s double precision,
    rpo_s double precision,
    rto_target_s double precision not null,
    rpo_target_s double precision not null,
    -- Three verdicts: whether it was recovered, whether what was recovered is right, whether nothing is left.
    act_verdict text not null default 'pending',
    validation_verdict text not null default 'pending',
    cleanup_verdict text not null default 'pending',
    reason text not null default '',
    -- Size of what was recovered: how long it takes grows with it.
    source_bytes bigint,
    facts jsonb not null default '{}',
    -- What the janitor must put back when this drill's process has died.
    undo jsonb not null default '[]',
    check (act_verdict in ('pending', 'passed', 'failed', 'unknown', 'stopped')),
    check (validation_verdict in ('pending', 'passed', 'failed', 'unknown', 'stopped')),
    check (cleanup_verdict in ('pending', 'passed', 'failed', 'unknown'))
);
create index drills_newest on drills (platform, act, scenario, started_at desc);
create index drills_running on drills (platform) where ended_at is null;
"""


def upgrade() -> None:
    op.execute(DRILLS)


def downgrade() -> None:
    """Drop what `upgrade` made."""
    op.execute("drop table if exists drills")
