-- The extensions of a database.
--
-- Returns   one row per extension: name, version, schema_name
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 13 or newer; any role

select
    e.extname::text as name,
    e.extversion as version,
    n.nspname::text as schema_name
from pg_extension as e
join pg_namespace as n on n.oid = e.extnamespace
order by name
