"""The trail: what was done, sealed in one chain."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"

TRAIL = """
-- A digest of each fact of the ledger that is over. Each row carries the hash of the one before, and witnesses in other
-- places carry the newest: what is changed, added or removed afterwards shows.
create table trail (
    number bigint primary key,
    at timestamptz not null,
    source text not null,
    id text not null,
    -- A fact that went on is sealed again.
    version text not null,
    digest char(64) not null,
    hash char(64) not null,
    unique (source, id, version)
);
create function trail_is_append_only() returns trigger language plpgsql as $$
begin
    raise exception 'the trail is append-only';
end $$;
create trigger trail_append_only before update or delete or truncate on trail
    for each statement execute function trail_is_append_only();
create index plans_created on plans (created_at);
create index actions_ended on actions (ended_at) where ended_at is not null;
create index deletions_recorded on deletions (recorded_at);
create index finding_events_at on finding_events (at);
create index timeline_at on timeline (at);
"""


def upgrade() -> None:
    op.execute(TRAIL)


def downgrade() -> None:
    """Drop what `upgrade` made."""
    op.execute("drop index if exists plans_created, actions_ended, deletions_recorded, finding_events_at, timeline_at")
    op.execute("drop table if exists trail")
    op.execute("drop function if exists trail_is_append_only")
