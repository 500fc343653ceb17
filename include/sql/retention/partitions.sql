-- The leaves of a partitioned table.
--
-- Returns   one row per leaf: oid, schema, name; whether it hangs directly below the table, its detaching was
--           interrupted (pending), its parent is partitioned by range of the key alone and has no default partition,
--           beside which nothing is detached concurrently (by_key); bound, and upper bound (null: none, or no range)
-- Params    oid         of the partitioned table
--           key_column  by whose age rows expire
-- Locks     none beyond a normal read
-- Needs     PostgreSQL 13 or newer

with recursive family as (
    select %(oid)s::oid as oid
    union all
    -- pg_partition_tree leaves out what is being detached.
    select i.inhrelid from pg_inherits as i
    join family on family.oid = i.inhparent
)
select
    c.oid::bigint as oid,
    n.nspname as schema,
    c.relname as name,
    coalesce(i.inhparent = %(oid)s::oid, false) as direct,
    coalesce(to_jsonb(i) ->> 'inhdetachpending' = 'true', false) as pending,
    coalesce(
        p.partstrat = 'r' and p.partnatts = 1 and p.partdefid = 0
        and exists (
            select from pg_attribute as a
            where a.attrelid = i.inhparent and a.attnum = p.partattrs[0] and a.attname = %(key_column)s
        ), false
    ) as by_key,
    pg_get_expr(c.relpartbound, c.oid) as bound,
    substring(pg_get_expr(c.relpartbound, c.oid) from 'TO \(''([^'']*)''\)$') as upper_bound
from family
join pg_class as c on c.oid = family.oid
join pg_namespace as n on n.oid = c.relnamespace
left join pg_inherits as i on i.inhrelid = c.oid
left join pg_partitioned_table as p on p.partrelid = i.inhparent
where c.relkind = 'r'
order by n.nspname, c.relname
