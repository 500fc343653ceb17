"""Findings that somebody has decided to live with for a while, and what the page asks for often."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"

WAIVERS = """
create table waivers (
    id bigint generated always as identity primary key,
    platform text not null,
    -- Of the finding; the same thing found again is waived again.
    key text not null,
    -- As bad as it was then; worse, it counts again.
    severity text not null check (severity ~ '^P[0-4]$'),
    summary text not null,
    owner text not null,
    reason text not null,
    starts_at timestamptz not null default clock_timestamp(),
    until timestamptz not null,
    -- Who took it back before its time.
    ended_by text not null default '',
    check (until > starts_at)
);
create index waivers_until on waivers (platform, until);
create index waivers_key on waivers (key, until);
create view waived as
select distinct on (f.key) f.key, f.platform, w.id, w.owner, w.reason, w.until
from findings as f
join waivers as w
    on w.key = f.key and w.severity <= f.severity
    and w.starts_at <= clock_timestamp() and w.until > clock_timestamp()
where f.state = 'open'
order by f.key, w.until desc;

-- The newest report of each Dag, among a year of runs.
create index runs_reports on runs (platform, dag_id, first_seen_at desc) where report_url is not null;
create index backups_proved on backups (platform, kind, finished_at desc)
    where content_state = 'verified' and deleted_at is null;
"""


def upgrade() -> None:
    op.execute(WAIVERS)


def downgrade() -> None:
    """Drop what `upgrade` made; what a waiver held back is told by the next delivery."""
    op.execute("update findings set held = 'silence 0' where held like 'waiver %'")
    op.execute("drop view if exists waived")
    op.execute("drop table if exists waivers")
    op.execute("drop index if exists runs_reports, backups_proved")
