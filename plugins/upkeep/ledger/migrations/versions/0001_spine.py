"""runs, outcomes, findings and their events, plans, actions, samples, outbox, deliveries"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

TABLES = """
create table runs (
    dag_id text not null,
    run_id text not null,
    platform text not null,
    first_seen_at timestamptz not null default now(),
    report_url text,
    primary key (dag_id, run_id)
);
create index runs_platform on runs (platform, first_seen_at desc);

-- One row per check and look, whatever it saw: an absent row is evidence of nothing.
create table outcomes (
    id bigint generated always as identity primary key,
    platform text not null,
    dag_id text not null,
    run_id text not null,
    task_id text not null,
    check_name text not null,
    object text not null default '',
    state text not null check (state in ('ok', 'finding', 'unknown')),
    severity text not null check (severity ~ '^P[0-4]$'),
    reason text not null default '',
    explained_by text not null default '',
    findings jsonb not null default '[]',
    facts jsonb not null default '{}',
    started_at timestamptz not null,
    seconds double precision not null default 0,
    evidence char(64) not null,
    recorded_at timestamptz not null default clock_timestamp()
);
create index outcomes_run on outcomes (dag_id, run_id);
create index outcomes_check on outcomes (platform, check_name, object, recorded_at desc);

create table findings (
    key text primary key,
    platform text not null,
    check_name text not null,
    object text not null default '',
    kind text not null check (kind in ('finding', 'unknown')),
    state text not null check (state in ('open', 'resolved')),
    severity text not null check (severity ~ '^P[0-4]$'),
    peak text not null check (peak ~ '^P[0-4]$'),
    summary text not null,
    hint text not null default '',
    facts jsonb not null default '{}',
    looks integer not null default 1,
    opened_at timestamptz not null,
    last_seen_at timestamptz not null,
    resolved_at timestamptz
);
create index findings_open on findings (platform, check_name) where state = 'open';

create table finding_events (
    id bigint generated always as identity primary key,
    key text not null,
    event text not null check (event in ('opened', 'reopened', 'worse', 'better', 'resolved')),
    severity text not null,
    summary text not null,
    dag_id text not null,
    run_id text not null,
    task_id text not null,
    at timestamptz not null default clock_timestamp()
);
create index finding_events_key on finding_events (key, at);
create index finding_events_run on finding_events (dag_id, run_id);

create table plans (
    id uuid primary key default gen_random_uuid(),
    platform text not null,
    capability text not null,
    dag_id text not null,
    run_id text not null,
    task_id text not null,
    items jsonb not null,
    digest char(64) not null,
    dry_run boolean not null default false,
    created_at timestamptz not null default clock_timestamp()
);
create index plans_run on plans (dag_id, run_id);

create table actions (
    id bigint generated always as identity primary key,
    plan_id uuid references plans,
    platform text not null,
    capability text not null,
    verb text not null,
    object text not null,
    dag_id text not null,
    run_id text not null,
    task_id text not null,
    map_index integer not null default -1,
    try_number integer not null default 1,
    state text not null default 'open' check (state in ('open', 'done', 'failed', 'skipped', 'abandoned')),
    before jsonb not null default '{}',
    after jsonb not null default '{}',
    reason text not null default '',
    started_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz
);
create index actions_run on actions (dag_id, run_id);
create index actions_object on actions (platform, capability, verb, object, started_at desc);
create index actions_open on actions (platform) where state = 'open';

create table samples (
    platform text not null,
    metric text not null,
    object text not null default '',
    at timestamptz not null,
    value double precision not null,
    primary key (platform, metric, object, at)
);

create table outbox (
    id bigint generated always as identity primary key,
    key text not null,
    platform text not null,
    channel text not null check (channel in ('pagerduty', 'slack')),
    event text not null check (event in ('trigger', 'resolve')),
    severity text not null,
    payload jsonb not null,
    spool_id text unique,
    state text not null default 'pending' check (state in ('pending', 'delivered', 'failed')),
    attempts integer not null default 0,
    next_attempt_at timestamptz not null default clock_timestamp(),
    created_at timestamptz not null default clock_timestamp(),
    delivered_at timestamptz
);
create index outbox_pending on outbox (key, channel, id) where state = 'pending';
create index outbox_key on outbox (key, id);

create table deliveries (
    id bigint generated always as identity primary key,
    outbox_id bigint not null references outbox,
    at timestamptz not null default clock_timestamp(),
    delivered boolean not null,
    answer text not null default ''
);
create index deliveries_outbox on deliveries (outbox_id);
"""


def upgrade() -> None:
    op.execute(TABLES)


def downgrade() -> None:
    op.execute("drop table deliveries, outbox, samples, actions, plans, finding_events, findings, outcomes, runs")
