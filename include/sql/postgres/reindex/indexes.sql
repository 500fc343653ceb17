-- Every index that may be rebuilt concurrently and is large enough to be worth it: the cheap pass.
--
-- Sizes and rows are the catalog's, which VACUUM and ANALYZE wrote together; nothing is opened and nothing waited for.
-- Left out: what belongs to the system, temporary and BRIN indexes, those behind exclusion constraints (REINDEX
-- CONCURRENTLY refuses them), and invalid ones (leftovers of a build, or of one that goes on now).
--
-- Returns   one row per index, the largest first: its oid, schema, name, access method, bytes, rows (-1 when never
--           counted), fillfactor, whether on an expression, its share of all index scans; its table, that table's bytes;
--           whether this role may rebuild it, its owner; bytes of the whole database
-- Params    least_bytes   smaller ones are left out
--           schema, name  both null for all; else this index alone, whatever its size
-- Locks     none beyond a normal read
-- Needs     PostgreSQL 13 or newer; no rights but to connect

with guc as (
    select
        current_setting('block_size')::bigint as block,
        current_setting('server_version_num')::int as version,
        (
            select pg_has_role(d.datdba, 'usage')
            from pg_database as d
            where d.datname = current_database()
        ) as owns_database
),

totals as (
    select
        sum(c.relpages::bigint) * max(guc.block) as bytes,
        greatest(sum(pg_stat_get_numscans(c.oid)) filter (where c.relkind = 'i'), 1) as scans
    from pg_class as c
    cross join guc
    where c.relkind in ('r', 'm', 't', 'i')
)

select
    c.oid::bigint                                       as oid,
    n.nspname                                           as schema,
    c.relname                                           as name,
    a.amname                                            as method,
    c.relpages * guc.block                              as bytes,
    c.reltuples::float8                                 as rows,
    coalesce(fill.factor, case a.amname when 'btree' then 90 else 100 end) as fillfactor,
    i.indexprs is not null                              as expression,
    pg_stat_get_numscans(c.oid) / totals.scans::float8  as scan_share,
    tn.nspname                                          as table_schema,
    t.relname                                           as table_name,
    t.relpages * guc.block                              as table_bytes,
    pg_get_userbyid(c.relowner)                         as owner,
    -- The right to maintain came with 17; before it only the owners of the table and of the database have it.
    case
        when pg_has_role(t.relowner, 'usage') or guc.owns_database then true
        when guc.version >= 170000 then has_table_privilege(t.oid, 'maintain')
        else false
    end and has_schema_privilege(n.oid, 'usage')        as allowed,
    totals.bytes::bigint                                as database_bytes
from pg_index as i
join pg_class as c on c.oid = i.indexrelid
join pg_namespace as n on n.oid = c.relnamespace
join pg_am as a on a.oid = c.relam
join pg_class as t on t.oid = i.indrelid
join pg_namespace as tn on tn.oid = t.relnamespace
cross join guc
cross join totals
left join lateral (
    select o.option_value::int as factor
    from pg_options_to_table(c.reloptions) as o
    where o.option_name = 'fillfactor'
) as fill on c.reloptions is not null
where
    c.relkind = 'i'
    and i.indisvalid
    and not i.indisexclusion
    and a.amname <> 'brin'
    and c.relpersistence <> 't'
    and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
    and case
        when %(name)s::text is null then c.relpages * guc.block >= %(least_bytes)s
        else n.nspname = %(schema)s and c.relname = %(name)s
    end
order by c.relpages desc, n.nspname, c.relname
