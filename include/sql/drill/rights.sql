-- What a role lacks to rehearse a failover.
--
-- Returns   one row: replication, promotes, rewinds, writes (booleans), superuser
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 13 or newer

select
    r.rolreplication as replication,
    has_function_privilege('pg_promote(boolean, integer)', 'execute') as promotes,
    has_function_privilege('pg_ls_dir(text, boolean, boolean)', 'execute')
    and has_function_privilege('pg_stat_file(text, boolean)', 'execute')
    and has_function_privilege('pg_read_binary_file(text)', 'execute')
    and has_function_privilege('pg_read_binary_file(text, bigint, bigint, boolean)', 'execute') as rewinds,
    coalesce(
        has_table_privilege(to_regclass('upkeep.drill_canary'), 'insert')
        and has_table_privilege(to_regclass('upkeep.drill_canary'), 'select')
        and has_table_privilege(to_regclass('upkeep.drill_canary'), 'delete'),
        false
    ) as writes,
    r.rolsuper as superuser
from pg_roles as r
where r.rolname = current_user
