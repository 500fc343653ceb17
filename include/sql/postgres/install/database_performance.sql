-- The view `upkeep.database_performance`: what the database is busy with now.
--
--   psql -X -v ON_ERROR_STOP=1 -d studyspot -U upkeep_owner -f include/sql/postgres/install/database_performance.sql
--
-- Install it again whenever you like. Rows: metric, value, unit; `order by metric`, because a view has no order.
--
-- Returns   nothing
-- Params    none
-- Locks     none that the application would notice
-- Needs     PostgreSQL 13 or newer; the owner role of roles.sql. Readers: pg_monitor

create or replace view upkeep.database_performance as
select
    counted.metric,
    counted.value,
    counted.unit
from (
    select
        count(*) as sessions,
        count(*) filter (where a.state = 'active') as active,
        count(*) filter (where a.state like 'idle in transaction%') as idle_in_transaction,
        -- Whoever waits for a lock has one session, however many locks it waits behind.
        count(*) filter (where a.wait_event_type = 'Lock') as waiting,
        coalesce(max(extract(epoch from clock_timestamp() - a.xact_start)), 0) as oldest_s
    from pg_stat_activity as a
    where a.datname = current_database() and a.backend_type = 'client backend' and a.pid <> pg_backend_pid()
) as now
cross join lateral (
    values
    ('sessions', now.sessions::numeric, 'sessions'),
    ('sessions_active', now.active, 'sessions'),
    ('sessions_idle_in_transaction', now.idle_in_transaction, 'sessions'),
    ('sessions_waiting_for_a_lock', now.waiting, 'sessions'),
    ('oldest_transaction', round(now.oldest_s::numeric, 3), 'seconds'),
    ('max_connections', current_setting('max_connections')::numeric, 'sessions'),
    ('database_size', pg_database_size(current_database())::numeric, 'bytes')
) as counted (metric, value, unit);

comment on view upkeep.database_performance is 'What the database is busy with now; installed by Upkeep.';
revoke all on upkeep.database_performance from public;
grant usage on schema upkeep to pg_monitor;
grant select on upkeep.database_performance to pg_monitor;
