-- Databases that restores made or set aside, and that nobody has dropped.
--
-- Returns   one row per database: name, restore (id), aside (true: what was replaced; false: what was made), bytes
--           (null where this role may not connect to it and is no member of pg_read_all_stats)
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 10 or newer

select
    d.datname as name,
    right(d.datname, 8) as restore,
    d.datname ~ '_before_[0-9a-f]{8}$' as aside,
    case
        when has_database_privilege(d.oid, 'connect') or pg_has_role('pg_read_all_stats', 'member')
            then pg_database_size(d.oid)
    end as bytes
from pg_database as d
where d.datname ~ '_(upkeep_restore|before)_[0-9a-f]{8}$' and d.datname <> current_database()
order by d.datname
