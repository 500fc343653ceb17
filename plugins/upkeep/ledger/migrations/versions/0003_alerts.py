"""what telling people remembers: suspicions, held alerts, acknowledgements, threads, silences, watermarks"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

TABLES = """
alter table findings
    -- Seen by a look that is not believed yet; told nobody.
    drop constraint findings_state_check,
    add constraint findings_state_check check (state in ('suspected', 'open', 'resolved')),
    -- Bad looks in a row while suspected, good ones in a row while open.
    add column streak integer not null default 0,
    -- Looks in a row at which it was worse than it counts.
    add column worse_looks integer not null default 0,
    -- How often it came back soon after it was over.
    add column flaps integer not null default 0,
    -- Why nobody was told: 'because <key>', 'silence <id>', 'storm'.
    add column held text not null default '',
    add column acknowledged_at timestamptz,
    add column acknowledged_by text not null default '',
    -- How often people were reminded since it opened.
    add column reminders integer not null default 0,
    add column overdue boolean not null default false;
create index findings_recent on findings (platform, opened_at);
create index findings_held on findings (platform) where held <> '';

alter table outbox
    drop constraint outbox_channel_check,
    add constraint outbox_channel_check check (channel in ('pagerduty', 'slack', 'email')),
    drop constraint outbox_event_check,
    add constraint outbox_event_check
        check (event in ('trigger', 'acknowledge', 'resolve', 'remind', 'update', 'change'));

-- Where an alert stands in Slack, so that what follows goes below it.
create table threads (
    key text not null,
    channel text not null,
    channel_id text not null,
    ts text not null,
    at timestamptz not null default clock_timestamp(),
    primary key (key, channel)
);

create table silences (
    id bigint generated always as identity primary key,
    platform text not null,
    pattern text not null,
    owner text not null,
    reason text not null,
    starts_at timestamptz not null default clock_timestamp(),
    until timestamptz not null,
    created_at timestamptz not null default clock_timestamp(),
    check (until > starts_at)
);
create index silences_until on silences (platform, until);

create table watermarks (
    name text primary key,
    at timestamptz not null
);
"""

GONE = """
drop table watermarks, silences, threads;
delete from findings where state = 'suspected';
delete from deliveries as d using outbox as o
where d.outbox_id = o.id and (o.channel = 'email' or o.event not in ('trigger', 'resolve'));
delete from outbox where channel = 'email' or event not in ('trigger', 'resolve');
alter table outbox
    drop constraint outbox_channel_check,
    add constraint outbox_channel_check check (channel in ('pagerduty', 'slack')),
    drop constraint outbox_event_check,
    add constraint outbox_event_check check (event in ('trigger', 'resolve'));
alter table findings
    drop constraint findings_state_check,
    add constraint findings_state_check check (state in ('open', 'resolved')),
    drop column streak, drop column worse_looks, drop column flaps, drop column held,
    drop column acknowledged_at, drop column acknowledged_by, drop column reminders, drop column overdue;
"""


def upgrade() -> None:
    op.execute(TABLES)


def downgrade() -> None:
    op.execute(GONE)
