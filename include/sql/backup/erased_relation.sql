-- A table by the name under which the deletion ledger has it.
--
-- Returns   one row, or none: oid, schema, name, type of the key column (null: there is no such column), primary_key
-- Params    relation  schema and name with a dot between, without quotes
--           key_column
-- Locks     none
-- Needs     PostgreSQL 13 or newer; any role

select
    c.oid::bigint as oid,
    n.nspname::text as schema,
    c.relname::text as name,
    (
        select format_type(a.atttypid, null)
        from pg_attribute as a
        where a.attrelid = c.oid and a.attname = %(key_column)s and not a.attisdropped
    ) as type,
    array(
        select a.attname::text
        from pg_index as i
        cross join lateral unnest(i.indkey) with ordinality as k (number, place)
        join pg_attribute as a on a.attrelid = c.oid and a.attnum = k.number
        where i.indrelid = c.oid and i.indisprimary
        order by k.place
    ) as primary_key
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
where n.nspname || '.' || c.relname = %(relation)s and c.relkind in ('r', 'p')
