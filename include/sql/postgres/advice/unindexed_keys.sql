-- Foreign keys whose columns no index begins with, on tables whose referenced rows are deleted or change their key.
--
-- Each such delete reads the whole referencing table, and holds its locks meanwhile.
--
-- Returns   one row per foreign key: name, schema, table_name, columns, referenced, rows, bytes (of the referencing
--           table), deletes (of referenced rows, since the statistics began)
-- Params    least_rows, least_bytes  smaller tables are read in no time
-- Locks     none: sizes are the catalog's
-- Needs     PostgreSQL 13 or newer; any role

select
    k.conname as name,
    n.nspname as schema,
    t.relname as table_name,
    array(
        select a.attname::text
        from unnest(k.conkey) with ordinality as part (attnum, place)
        join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = part.attnum
        order by part.place
    ) as columns,
    concat_ws('.', s.schemaname, s.relname) as referenced,
    t.reltuples::float8 as rows,
    t.relpages::bigint * current_setting('block_size')::int as bytes,
    s.n_tup_del::float8 as deletes
from pg_constraint as k
join pg_class as t on t.oid = k.conrelid
join pg_namespace as n on n.oid = t.relnamespace
join pg_stat_user_tables as s on s.relid = k.confrelid
where
    k.contype = 'f'
    and k.conparentid = 0
    and t.relkind = 'r'
    and t.reltuples >= %(least_rows)s
    and t.relpages::bigint * current_setting('block_size')::int >= %(least_bytes)s
    and s.n_tup_del > 0
    and not exists (
        select
        from pg_index as i
        where
            i.indrelid = k.conrelid
            and i.indisvalid
            and i.indpred is null
            and k.conkey <@ (i.indkey::int2[])[0:cardinality(k.conkey) - 1]
    )
order by bytes desc, schema, table_name, name
