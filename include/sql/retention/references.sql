-- Foreign keys that point at a table, or at a partitioned table that it is part of.
--
-- Returns   one row per foreign key: constraint, the referring table (oid, schema, name) and its columns, the columns
--           referred to, what happens to referring rows on delete (a nothing, r restrict, c cascade, n and d set null
--           and default), whether an index of the referring table leads with its columns
-- Params    oid  of the table
-- Locks     none beyond a normal read
-- Needs     PostgreSQL 13 or newer

with family as (
    select %(oid)s::oid as oid
    union
    select relid::oid as oid from pg_partition_ancestors(%(oid)s::oid::regclass)
)
select
    f.conname as "constraint",
    f.conrelid::bigint as oid,
    n.nspname as schema,
    c.relname as name,
    array(
        select a.attname::text from unnest(f.conkey) with ordinality as k (attnum, place)
        join pg_attribute as a on a.attrelid = f.conrelid and a.attnum = k.attnum
        order by k.place
    ) as columns,
    array(
        select a.attname::text from unnest(f.confkey) with ordinality as k (attnum, place)
        join pg_attribute as a on a.attrelid = f.confrelid and a.attnum = k.attnum
        order by k.place
    ) as refers_to,
    f.confdeltype::text as on_delete,
    exists (
        select from pg_index as i
        where
            i.indrelid = f.conrelid and i.indisvalid and i.indpred is null
            and cardinality(f.conkey) = (
                select count(*) from unnest(i.indkey) with ordinality as k (attnum, place)
                where k.place <= cardinality(f.conkey) and k.attnum = any(f.conkey)
            )
    ) as indexed
from pg_constraint as f
join pg_class as c on c.oid = f.conrelid
join pg_namespace as n on n.oid = c.relnamespace
-- Copies that partitions carry have a parent.
where f.contype = 'f' and f.conparentid = 0 and f.confrelid in (select family.oid from family)
order by n.nspname, c.relname, f.conname
