-- Who waits for a lock, and for whom.
--
-- The tree is built by the reader: in SQL a queue of n waiters has 2^n paths, because each waits for all before it.
--
-- Returns   one row per waiting session and blocker: pid, waited_s, blocker (0: a prepared transaction), and of the
--           blocker: username, application, state, transaction_s, query
-- Params    none
-- Locks     none; briefly looks at the lock table, once per waiting session
-- Needs     PostgreSQL 10 or newer; pg_monitor, otherwise other roles' sessions are hidden

with waiting as materialized (
    select
        a.pid,
        extract(epoch from clock_timestamp() - coalesce(
            -- The column is new in 14; through JSON its absence is null and no error.
            (
                select min((to_jsonb(l) ->> 'waitstart')::timestamptz) from pg_locks as l
                where l.pid = a.pid and not l.granted
            ),
            a.query_start
        ))::float8 as waited_s,
        unnest(pg_blocking_pids(a.pid)) as blocker
    from pg_stat_activity as a
    where a.wait_event_type = 'Lock'
)

select distinct
    w.pid,
    w.waited_s,
    w.blocker,
    coalesce(b.usename::text, '-')           as username,
    coalesce(nullif(b.application_name, ''), '-') as application,
    coalesce(b.state, 'prepared transaction') as state,
    extract(epoch from clock_timestamp() - b.xact_start)::float8 as transaction_s,
    coalesce(b.query, '')                    as query
from waiting as w
left join pg_stat_activity as b on w.blocker = b.pid
