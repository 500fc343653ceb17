-- The columns of some tables that no index begins with, and how well a value of each narrows a search.
--
-- Returns   one row per column: oid (of the table), column, share (of the rows that one value selects on average;
--           null when ANALYZE has not looked)
-- Params    oids  array of table oids
-- Locks     none
-- Needs     PostgreSQL 13 or newer; SELECT on the tables (pg_read_all_data), or the planner's knowledge stays hidden

select
    c.oid::bigint as oid,
    a.attname as "column",
    case
        when known.n_distinct > 0 then 1 / known.n_distinct
        when known.n_distinct < 0 then 1 / greatest(-known.n_distinct * greatest(c.reltuples, 1), 1)
    end::float8 as share
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_stats as known
    on known.schemaname = n.nspname and known.tablename = c.relname and known.attname = a.attname and not known.inherited
where
    c.oid = any(%(oids)s::bigint[]::oid[])
    and not exists (
        select from pg_index as i where i.indrelid = c.oid and i.indisvalid and i.indpred is null and i.indkey[0] = a.attnum
    )
order by c.oid, a.attnum
