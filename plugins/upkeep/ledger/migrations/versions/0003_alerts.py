"""what telling people remembers: suspicions, held alerts, threads, silences; incidents and their timeline"""

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

create table incidents (
    id text primary key,
    platform text not null,
    -- Whoever declares the same thing again joins it.
    key text not null,
    severity text not null check (severity ~ '^P[0-4]$'),
    state text not null default 'open'
        check (state in ('open', 'acknowledged', 'mitigated', 'resolved', 'review', 'closed')),
    title text not null,
    description text not null default '',
    drill boolean not null default false,
    pagerduty_id text,
    channel_id text,
    channel_name text,
    declared_at timestamptz not null default clock_timestamp(),
    acknowledged_at timestamptz,
    mitigated_at timestamptz,
    resolved_at timestamptz,
    closed_at timestamptz
);
create unique index incidents_open on incidents (platform, key) where state in ('open', 'acknowledged', 'mitigated');
create index incidents_platform on incidents (platform, declared_at desc);

-- Written once. Each row carries the hash of the one before, so that a changed one shows.
create table timeline (
    incident_id text not null references incidents,
    number integer not null,
    at timestamptz not null,
    actor text not null,
    kind text not null,
    said text not null,
    facts jsonb not null default '{}',
    hash char(64) not null,
    primary key (incident_id, number)
);
create function timeline_is_append_only() returns trigger language plpgsql as $$
begin
    raise exception 'the timeline is append-only';
end $$;
create trigger timeline_append_only before update or delete or truncate on timeline
    for each statement execute function timeline_is_append_only();
"""

GONE = """
drop table timeline, incidents, watermarks, silences, threads;
drop function timeline_is_append_only;
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
