-- The B-tree indexes of the application, for amcheck.
--
-- Returns   one row per index: name (schema and name, quoted), oid
-- Params    none
-- Locks     none beyond a normal read
-- Needs     PostgreSQL 13 or newer; any role

select
    format('%I.%I', n.nspname, c.relname) as name,
    c.oid::bigint as oid
from pg_index as i
join pg_class as c on c.oid = i.indexrelid
join pg_namespace as n on n.oid = c.relnamespace
join pg_am as a on a.oid = c.relam
where
    a.amname = 'btree'
    and c.relkind = 'i'
    and c.relpersistence <> 't'
    and i.indisvalid
    and n.nspname !~ '^pg_'
    and n.nspname <> 'information_schema'
order by c.relpages desc, name
