-- How large this database is, how much write-ahead log there is, and how many connections there may be.
--
-- Returns   one row: database, database_bytes, wal_bytes (null: may not be seen), sessions (of clients),
--           most_sessions (max_connections less the reserved ones)
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 13 or newer; pg_monitor for the log's directory

select
    current_database()::text as database,
    pg_database_size(current_database()) as database_bytes,
    case
        when has_function_privilege('pg_ls_waldir()', 'execute')
            then (select coalesce(sum(size), 0)::bigint from pg_ls_waldir())
    end as wal_bytes,
    (select count(*)::int from pg_stat_activity where backend_type = 'client backend') as sessions,
    current_setting('max_connections')::int
    - current_setting('superuser_reserved_connections')::int
    - coalesce(current_setting('reserved_connections', true), '0')::int as most_sessions
