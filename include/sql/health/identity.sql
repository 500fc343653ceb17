-- Which server this is, and whether it takes writes.
--
-- Returns   one row: version (170010), version_text, in_recovery, read_only, started_at, database
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 10 or newer; any role

select
    current_setting('server_version_num')::int       as version,
    current_setting('server_version')                as version_text,
    pg_is_in_recovery()                              as in_recovery,
    current_setting('default_transaction_read_only') = 'on' as read_only,
    pg_postmaster_start_time()                       as started_at,
    current_database()::text                         as database
