"""What backups leave behind."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"

BACKUPS = """
-- One row per backup whose manifest was written; its manifest in S3 tells the rest.
create table backups (
    platform text not null,
    id text not null,
    kind text not null check (kind in ('database', 'files', 'configuration')),
    engine text not null,
    bucket text not null,
    prefix text not null,
    started_at timestamptz not null,
    finished_at timestamptz not null,
    bytes bigint not null,
    source_bytes bigint,
    server_version int,
    client_version text,
    -- Of manifest.json, so that a manifest that somebody replaced is noticed.
    manifest_sha256 char(64) not null,
    dag_id text not null,
    run_id text not null,
    recorded_at timestamptz not null default clock_timestamp(),
    -- Every byte read back and compared.
    bytes_state text not null default 'unchecked' check (bytes_state in ('unchecked', 'verified', 'broken')),
    bytes_at timestamptz,
    bytes_reason text not null default '',
    -- Restored, and its content compared with that of the snapshot.
    content_state text not null default 'unchecked' check (content_state in ('unchecked', 'verified', 'broken')),
    content_at timestamptz,
    content_reason text not null default '',
    content_facts jsonb not null default '{}',
    -- Retention: kept whatever the rules say, marked for deletion, gone.
    pinned_until timestamptz,
    pinned_because text not null default '',
    legal_hold boolean not null default false,
    marked_at timestamptz,
    -- Digest of the plan to which a person said yes, beyond the standing one.
    approved_plan char(64),
    deleted_at timestamptz,
    primary key (platform, id)
);
create index backups_newest on backups (platform, kind, finished_at desc);

-- Throw-away clusters of verification. One without removed_at may still lie on that host.
create table scratches (
    id text primary key,
    platform text not null,
    backup text not null,
    host text not null,
    path text not null,
    dag_id text not null,
    run_id text not null,
    made_at timestamptz not null default clock_timestamp(),
    removed_at timestamptz
);
create index scratches_left on scratches (platform, host) where removed_at is null;
"""


def upgrade() -> None:
    op.execute(BACKUPS)


def downgrade() -> None:
    """Drop what `upgrade` made."""
    op.execute("drop table if exists scratches, backups")
