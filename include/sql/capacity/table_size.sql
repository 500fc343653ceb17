-- About how many rows a table has, its partitions included.
--
-- Returns   one row: found (whether there is such a table), rows (null: never analyzed), column_found
-- Params    table   as the platform file names it: ``table`` or ``schema.table``, without quotes
--           key    a column of it
-- Locks     ACCESS SHARE on the table for a moment
-- Needs     PostgreSQL 13 or newer; USAGE on the schema

with wanted as (
    select
        to_regclass(
            (
                select string_agg(quote_ident(part), '.' order by place)
                from unnest(string_to_array(%(table)s, '.')) with ordinality as parts (part, place)
            )
        ) as oid
)
select
    w.oid is not null as found,
    -- As many to a page as when it was analyzed, as the planner thinks.
    (
        select
            sum(
                c.reltuples / nullif(c.relpages, 0)
                * (pg_relation_size(c.oid) / current_setting('block_size')::int)
            )::float8
        from pg_class as c
        where
            -- A table without partitions has no tree.
            (c.oid = w.oid or c.oid in (select part.relid from pg_partition_tree(w.oid) as part))
            and c.relkind in ('r', 'm') and c.reltuples > 0
    ) as rows,
    exists (
        select from pg_attribute as a
        where a.attrelid = w.oid and a.attname = %(key)s and a.attnum > 0 and not a.attisdropped
    ) as column_found
from wanted as w
