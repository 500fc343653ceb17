"""What caring for PostgreSQL remembers: index baselines, deletions."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

INDEXES = """
-- The least bytes per row that each index was seen with: what it could be again. Its oid tells whether it is still
-- the same one; every rebuild makes a new index under the old name.
create table index_baselines (
    platform text not null,
    index_name text not null,
    oid bigint not null,
    best_ratio double precision not null check (best_ratio >= 0),
    source text not null check (source in ('rebuild', 'sample', 'scan', 'seen')),
    seen_at timestamptz not null default clock_timestamp(),
    rebuilt_at timestamptz,
    estimated_bytes bigint,
    freed_bytes bigint,
    bytes_after bigint,
    primary key (platform, index_name)
);
"""

DELETIONS = """
-- What retention rules removed, without content, so that a restore can remove it again.
create table deletions (
    id uuid primary key,
    platform text not null,
    relation text not null,
    plan char(64) not null,
    cut_off timestamptz not null,
    key_column text not null,
    condition text not null,
    from_key text not null,
    to_key text not null,
    rows bigint not null,
    -- Sum of hashtextextended(primary key, 0): whoever removes them again knows whether they were the same.
    ids numeric,
    archive text,
    deleted_at timestamptz not null,
    dag_id text not null,
    run_id text not null,
    recorded_at timestamptz not null default clock_timestamp()
);
create index deletions_relation on deletions (platform, relation, deleted_at);
create index deletions_plan on deletions (plan);
"""

SNAPSHOTS = """
-- Counters of a server as one run saw them, so that the next run can say what happened in between.
create table snapshots (
    platform text not null,
    kind text not null,
    dag_id text not null,
    run_id text not null,
    at timestamptz not null,
    content jsonb not null,
    primary key (platform, kind, dag_id, run_id)
);
create index snapshots_latest on snapshots (platform, kind, dag_id, at desc);
"""


def upgrade() -> None:
    for tables in (INDEXES, DELETIONS, SNAPSHOTS):
        if tables.strip():
            op.execute(tables)


def downgrade() -> None:
    """Drop what `upgrade` made."""
    op.execute("drop table if exists snapshots, deletions, index_baselines")
