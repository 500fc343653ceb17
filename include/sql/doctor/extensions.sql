-- Extensions we would use: whether the server has them, and whether this database does.
--
-- Returns   one row per name: name, available, installed (version or null), schema (quoted where needed, or null),
--           asks_ids (false: statements get no id, so pg_stat_statements counts none)
-- Params    names  array of extension names
-- Locks     none
-- Needs     PostgreSQL 10 or newer; any role

select
    wanted.name,
    available.name is not null as available,
    installed.extversion as installed,
    quote_ident(schemas.nspname) as schema,
    -- PostgreSQL 14 and newer.
    coalesce(current_setting('compute_query_id', true), 'auto') <> 'off' as asks_ids
from unnest(%(names)s::text[]) with ordinality as wanted (name, place)
left join pg_available_extensions as available on available.name = wanted.name
left join pg_extension as installed on installed.extname = wanted.name
left join pg_namespace as schemas on schemas.oid = installed.extnamespace
order by wanted.place
