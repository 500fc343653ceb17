-- Every index of the application, how much it is used, and what it is good for besides being scanned.
--
-- The parts of a partitioned index stand for themselves nowhere: their scans count for the index at the top, which
-- alone can be dropped. An index supports a foreign key when its first columns are the referencing ones: without it
-- every delete of the referenced row would read the whole table.
--
-- Returns   one row per index: oid, schema, name, schema_of_table, table_name, rows (of the table), bytes, scans,
--           last_scan (16 and newer, else null), stats_reset (of this index alone: 19 and newer), columns (names, in
--           order; expressions have one as well), is_unique, is_primary, is_constraint, is_replica_identity,
--           is_valid, supports_foreign_key, building, method, key_columns, signature (equal for indexes with the
--           same content), keys (text[] per key column: number, operator class, collation, options), included,
--           has_expressions, predicate
-- Params    none
-- Locks     none: sizes are the catalog's, because asking for the real ones waits for the table's lock
-- Needs     PostgreSQL 13 or newer; any role

with used as (
    select
        coalesce(pg_partition_root(s.indexrelid), s.indexrelid)::oid as oid,
        sum(s.idx_scan)::float8 as scans,
        max((to_jsonb(s) ->> 'last_idx_scan')::timestamptz) as last_scan,
        max((to_jsonb(s) ->> 'stats_reset')::timestamptz) as stats_reset,
        sum(c.relpages)::float8 * current_setting('block_size')::int as bytes
    from pg_stat_user_indexes as s
    join pg_class as c on c.oid = s.indexrelid
    group by 1
)

select
    i.indexrelid::bigint as oid,
    n.nspname as schema,
    c.relname as name,
    tn.nspname as schema_of_table,
    t.relname as table_name,
    greatest(t.reltuples, 0)::float8 as rows,
    coalesce(u.bytes, 0)::bigint as bytes,
    coalesce(u.scans, 0) as scans,
    u.last_scan,
    u.stats_reset,
    array(
        select a.attname::text from pg_attribute as a where a.attrelid = i.indexrelid order by a.attnum
    ) as columns,
    i.indisunique as is_unique,
    i.indisprimary as is_primary,
    exists (select from pg_constraint as k where k.conindid = i.indexrelid) as is_constraint,
    i.indisreplident as is_replica_identity,
    i.indisvalid as is_valid,
    exists (
        select
        from pg_constraint as k
        where
            k.contype = 'f'
            and k.conrelid = i.indrelid
            and i.indpred is null
            and k.conkey <@ (i.indkey::int2[])[0:cardinality(k.conkey) - 1]
    ) as supports_foreign_key,
    exists (
        select from pg_stat_progress_create_index as p where p.index_relid = i.indexrelid
    ) as building,
    am.amname as method,
    i.indnkeyatts::int as key_columns,
    -- Expressions and predicates without the places in the statement they came from.
    concat_ws(
        '|',
        i.indrelid, am.amname, i.indkey, i.indclass, i.indcollation, i.indoption, i.indnkeyatts,
        regexp_replace(i.indexprs::text, ':location -?\d+', '', 'g'),
        '?',
        regexp_replace(i.indpred::text, ':location -?\d+', '', 'g')
    ) as signature,
    array(
        select
            concat_ws(
                '/', (i.indkey::int2[])[place], (i.indclass::oid[])[place], (i.indcollation::oid[])[place],
                (i.indoption::int2[])[place]
            )
        from generate_series(0, i.indnkeyatts - 1) as place
        order by place
    ) as keys,
    (i.indkey::int2[])[i.indnkeyatts:] as included,
    i.indexprs is not null as has_expressions,
    coalesce(regexp_replace(i.indpred::text, ':location -?\d+', '', 'g'), '') as predicate
from pg_index as i
join pg_class as c on c.oid = i.indexrelid
join pg_namespace as n on n.oid = c.relnamespace
join pg_class as t on t.oid = i.indrelid
join pg_namespace as tn on tn.oid = t.relnamespace
join pg_am as am on am.oid = c.relam
left join used as u on u.oid = i.indexrelid
where
    not c.relispartition
    and t.relpersistence <> 't'
    and t.relkind in ('r', 'm', 'p')
    and tn.nspname not in ('pg_catalog', 'information_schema')
    -- What belongs to an extension is the extension's business.
    and not exists (
        select from pg_depend as d
        where d.classid = 'pg_class'::regclass and d.objid = t.oid and d.deptype = 'e'
    )
order by tn.nspname, t.relname, c.relname
