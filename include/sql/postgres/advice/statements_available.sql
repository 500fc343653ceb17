-- Whether this database has pg_stat_statements, where, and whether this role may read other people's statements.
--
-- Returns   one row: version (of the extension, null when not here) and schema, available (the server has its
--           files), preloaded (null when we may not see it), may_read, asks_ids (false: statements get no id)
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 13 or newer; any role

select
    installed.extversion as version,
    schemas.nspname as schema,
    exists (select from pg_available_extensions as a where a.name = 'pg_stat_statements') as available,
    (
        select 'pg_stat_statements' = any(string_to_array(replace(s.setting, ' ', ''), ','))
        from pg_settings as s
        where s.name = 'shared_preload_libraries'
    ) as preloaded,
    pg_has_role(current_user, 'pg_read_all_stats', 'usage') as may_read,
    -- PostgreSQL 14 and newer.
    coalesce(current_setting('compute_query_id', true), 'auto') <> 'off' as asks_ids,
    current_user as me
from (select 1) as one
left join pg_extension as installed on installed.extname = 'pg_stat_statements'
left join pg_namespace as schemas on schemas.oid = installed.extnamespace
