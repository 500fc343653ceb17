-- Who holds the server's connections, and how many ordinary roles may hold.
--
-- Reserved slots are not for the application: superuser_reserved_connections, and since PostgreSQL 16
-- reserved_connections. Replication has slots of its own (max_wal_senders) and does not count.
--
-- Returns   one row per state, application and user: state, application, username, sessions,
--           oldest_s (seconds since the oldest of them changed state), most (the limit, the same in each row)
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 10 or newer; pg_monitor, otherwise other roles' states are hidden

select
    coalesce(state, 'unknown')               as state,
    coalesce(nullif(application_name, ''), '-') as application,
    coalesce(usename::text, '-')             as username,
    count(*)::int                            as sessions,
    max(extract(epoch from clock_timestamp() - state_change))::float8 as oldest_s,
    current_setting('max_connections')::int
    - current_setting('superuser_reserved_connections')::int
    - coalesce(current_setting('reserved_connections', true), '0')::int as most
from pg_stat_activity
where backend_type = 'client backend'
group by state, application, username
order by sessions desc, state asc, application asc, username asc
