"""Who does the work of which maintenance window."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"

CLAIMS = """
-- One row per begun task of a maintenance Dag, and one per task that had nothing left to do.
create table claims (
    id bigint generated always as identity primary key,
    platform text not null,
    dag_id text not null,
    run_id text not null,
    task_id text not null,
    map_index integer not null default -1,
    -- The schedule's tick; null: a run by hand has none.
    due_at timestamptz,
    state text not null default 'working'
        check (state in ('working', 'done', 'failed', 'skipped', 'abandoned', 'covered')),
    -- Whether done once, it is done for every window that was due before it began.
    covers boolean not null default false,
    -- Tasks that carry out what this one only chooses, and how many times each.
    carried_by text[] not null default '{}',
    items integer not null default 0,
    covered_by text,
    reason text not null default '',
    began_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz
);
create index claims_task on claims (dag_id, task_id, began_at desc);
create index claims_run on claims (dag_id, run_id);
create index claims_window on claims (dag_id, due_at) where due_at is not null;
"""


def upgrade() -> None:
    op.execute(CLAIMS)


def downgrade() -> None:
    op.execute("drop table claims")
