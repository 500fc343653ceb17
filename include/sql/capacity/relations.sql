-- The largest tables and the largest indexes of this database; partitions count for the table they are parts of.
--
-- Returns   one row per relation, the largest first: metric (table_bytes, index_bytes), object (schema.name), bytes
-- Params    most  so many of each
-- Locks     ACCESS SHARE on each relation for a moment; a relation that is locked exclusively is waited for
-- Needs     PostgreSQL 13 or newer; CONNECT on the database

with relations as (
    select
        case c.relkind when 'i' then 'index_bytes' else 'table_bytes' end as metric,
        coalesce(pg_partition_root(c.oid)::oid, c.oid) as root,
        -- Without the indexes, which are told by themselves; null for what was dropped a moment ago.
        case c.relkind when 'i' then pg_relation_size(c.oid) else pg_table_size(c.oid) end as bytes
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    where
        c.relkind in ('r', 'm', 'i')
        -- Another session's temporary tables are gone tomorrow.
        and c.relpersistence <> 't'
        and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
),
whole as (
    select
        r.metric,
        n.nspname || '.' || c.relname as object,
        sum(r.bytes)::bigint as bytes
    from relations as r
    join pg_class as c on c.oid = r.root
    join pg_namespace as n on n.oid = c.relnamespace
    where r.bytes is not null
    group by r.metric, n.nspname, c.relname
),
ranked as (
    select
        metric,
        object,
        bytes,
        row_number() over (partition by metric order by bytes desc, object asc) as place
    from whole
)
select
    metric,
    object,
    bytes
from ranked
where place <= %(most)s
order by bytes desc, object asc
