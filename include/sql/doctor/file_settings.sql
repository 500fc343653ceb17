-- Whether we may read what the configuration files say (pg_settings shows only what is in force).
--
-- Returns   one row: allowed
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 10 or newer; any role

select
    has_table_privilege('pg_catalog.pg_file_settings', 'select')
    and has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'execute') as allowed
