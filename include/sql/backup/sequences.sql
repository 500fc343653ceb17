-- The sequences that a dump holds.
--
-- Returns   one row per sequence: schema_name, name
-- Params    none
-- Locks     none beyond a normal read
-- Needs     PostgreSQL 13 or newer; any role

select
    n.nspname::text as schema_name,
    c.relname::text as name
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
where
    c.relkind = 'S'
    and c.relpersistence <> 't'
    and n.nspname <> 'information_schema'
    and n.nspname !~ '^pg_'
    and not exists (
        select from pg_depend as d
        where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
    )
order by schema_name, name
