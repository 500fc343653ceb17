"""Daily samples of what can run out, and what was forecast from them."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"

CAPACITY = """
create table capacity_samples (
    platform text not null,
    metric text not null,
    object text not null default '',
    -- On which it was measured (UTC), whatever window the run was for.
    day date not null,
    value double precision not null,
    -- What there is of it; null where nothing limits it, or nobody knows.
    most double precision,
    at timestamptz not null default clock_timestamp(),
    primary key (platform, metric, object, day)
);
create index capacity_samples_day on capacity_samples (platform, day);

create table capacity_forecasts (
    platform text not null,
    metric text not null,
    object text not null default '',
    dag_id text not null,
    run_id text not null,
    made_at timestamptz not null default clock_timestamp(),
    -- Of the newest sample it knew.
    last_day date not null,
    points integer not null,
    value double precision not null,
    most double precision,
    state text not null check (state in ('ok', 'finding', 'unknown', 'free')),
    said text not null,
    -- Null with too few samples: no number from nothing.
    method text,
    error double precision,
    horizon integer,
    -- Days from the newest sample; null: not within the horizon.
    p10_days integer,
    p50_days integer,
    p90_days integer,
    -- {"days": […], "p10": […], "p50": […], "p90": […]}, thinned.
    path jsonb not null default '{}',
    -- [["2026-11-01", -120.0], …]
    shifts jsonb not null default '[]',
    primary key (platform, metric, object, dag_id, run_id)
);
create index capacity_forecasts_made on capacity_forecasts (platform, made_at desc);
"""


def upgrade() -> None:
    op.execute(CAPACITY)


def downgrade() -> None:
    op.execute("drop table capacity_forecasts, capacity_samples")
