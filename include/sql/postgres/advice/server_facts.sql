-- What the judgement of settings depends on.
--
-- Returns   one row: version (170010), database_bytes, slots, standbys, has_statements, may_read_files, me (quoted
--           where needed), system
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 13 or newer; pg_monitor

select
    current_setting('server_version_num')::int as version,
    pg_database_size(current_database())::float8 as database_bytes,
    (select count(*) from pg_replication_slots)::int as slots,
    (select count(*) from pg_stat_replication)::int as standbys,
    exists (select from pg_extension as e where e.extname = 'pg_stat_statements') as has_statements,
    has_table_privilege('pg_catalog.pg_file_settings', 'select')
    and has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'execute') as may_read_files,
    quote_ident(current_user) as me,
    (select c.system_identifier::text from pg_control_system() as c) as system
