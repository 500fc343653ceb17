"""What restoring a database leaves behind."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"

RESTORES = """
-- One row per restore that somebody asked for; by it the next try, and the way back, know what is whose.
create table restores (
    id char(8) primary key,
    platform text not null,
    backup text not null,
    asked jsonb not null,
    -- The database that is used, the one that is restored beside it, and what the old one is called after the swap.
    live text not null,
    made text not null,
    before text not null,
    state text not null check (
        state in ('chosen', 'loading', 'loaded', 'proved', 'replayed', 'swapped', 'back', 'removed')
    ),
    -- A database keeps its oid whatever it is called. Null: there was none.
    live_oid bigint,
    made_oid bigint,
    facts jsonb not null default '{}',
    actor text not null,
    dag_id text not null,
    run_id text not null,
    asked_at timestamptz not null default clock_timestamp(),
    changed_at timestamptz not null default clock_timestamp()
);
create index restores_newest on restores (platform, asked_at desc);
"""


def upgrade() -> None:
    op.execute(RESTORES)


def downgrade() -> None:
    """Drop what `upgrade` made."""
    op.execute("drop table if exists restores")
