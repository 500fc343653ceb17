-- Statements that have been running for long.
--
-- Idle sessions show their last statement too; only active ones count. Maintenance's own are bounded by their own
-- time-outs.
--
-- Returns   one row per session: pid, username, application, seconds (since the statement began), wait (what it
--           waits for, or null), query, waiters (how many sessions wait directly for it)
-- Params    seconds  shortest time that counts
-- Locks     none; briefly looks at the lock table while somebody waits for a lock
-- Needs     PostgreSQL 10 or newer; pg_monitor, otherwise other roles' statements are hidden

with waiting as materialized (
    select unnest(pg_blocking_pids(pid)) as blocker
    from pg_stat_activity
    where wait_event_type = 'Lock'
)

select
    a.pid,
    coalesce(a.usename::text, '-')           as username,
    coalesce(nullif(a.application_name, ''), '-') as application,
    extract(epoch from clock_timestamp() - a.query_start)::float8 as seconds,
    a.wait_event_type || ':' || a.wait_event as wait,
    a.query,
    (
        select count(*) from waiting as w
        where w.blocker = a.pid
    )::int as waiters
from pg_stat_activity as a
where
    a.state = 'active'
    and a.backend_type = 'client backend'
    and a.pid <> pg_backend_pid()
    and a.application_name not like 'upkeep%%'
    and clock_timestamp() - a.query_start > make_interval(secs => %(seconds)s)
order by seconds desc
