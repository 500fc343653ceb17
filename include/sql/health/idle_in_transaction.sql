-- Sessions that opened a transaction and then do nothing.
--
-- They keep their locks, and VACUUM cannot remove what they might still see.
--
-- Returns   one row per session: pid, username, application, state, seconds (idle), transaction_s (since the
--           transaction began), xmin_age (transactions since the snapshot it holds, null without one), query (the
--           last one), waiters (how many sessions wait directly for it)
-- Params    seconds  shortest idle time that counts
-- Locks     none; briefly looks at the lock table while somebody waits for a lock
-- Needs     PostgreSQL 10 or newer; pg_monitor, otherwise other roles' sessions are hidden

with waiting as materialized (
    select unnest(pg_blocking_pids(pid)) as blocker
    from pg_stat_activity
    where wait_event_type = 'Lock'
)

select
    a.pid,
    coalesce(a.usename::text, '-')           as username,
    coalesce(nullif(a.application_name, ''), '-') as application,
    a.state,
    extract(epoch from clock_timestamp() - a.state_change)::float8 as seconds,
    extract(epoch from clock_timestamp() - a.xact_start)::float8 as transaction_s,
    age(a.backend_xmin)                      as xmin_age,
    a.query,
    (
        select count(*) from waiting as w
        where w.blocker = a.pid
    )::int as waiters
from pg_stat_activity as a
where
    a.state in ('idle in transaction', 'idle in transaction (aborted)')
    and clock_timestamp() - a.state_change > make_interval(secs => %(seconds)s)
order by seconds desc
