-- The tables that retention rules name, and what deleting from them meets.
--
-- Returns   one row per rule: name as asked, and of its table (nulls: there is none) oid, schema, name, kind (r, p),
--           type of the key column, whether a usable index leads with it, primary key, bytes with indexes,
--           estimated rows (-1: never analyzed), triggers that fire on DELETE, publications that carry its deletes
-- Params    tables   array of ``table`` or ``schema.table``, without quotes
--           columns  array as long: the key columns
-- Locks     none beyond a normal read
-- Needs     PostgreSQL 13 or newer; USAGE on the schemas

select
    wanted.table_name as asked,
    c.oid::bigint as oid,
    n.nspname as schema,
    c.relname as name,
    c.relkind as kind,
    format_type(a.atttypid, null) as key_type,
    exists (
        select from pg_index as i
        join pg_class as ic on ic.oid = i.indexrelid
        join pg_am as am on am.oid = ic.relam
        where
            i.indrelid = c.oid and i.indkey[0] = a.attnum and i.indpred is null
            and am.amname = 'btree' and i.indisvalid and i.indisready
    ) as indexed,
    array(
        select pa.attname::text
        from pg_index as i
        cross join lateral unnest(i.indkey) with ordinality as k (attnum, place)
        join pg_attribute as pa on pa.attrelid = c.oid and pa.attnum = k.attnum
        where i.indrelid = c.oid and i.indisprimary and k.place <= i.indnkeyatts
        order by k.place
    ) as primary_key,
    pg_total_relation_size(c.oid) as bytes,
    c.reltuples::bigint as estimated,
    array(
        select t.tgname::text from pg_trigger as t
        -- 8 is DELETE.
        where t.tgrelid = c.oid and not t.tgisinternal and t.tgenabled <> 'D' and (t.tgtype & 8) > 0
        order by t.tgname
    ) as triggers,
    array(
        select p.pubname::text from pg_publication as p
        join pg_publication_tables as pt on pt.pubname = p.pubname
        where p.pubdelete and pt.schemaname = n.nspname and pt.tablename = c.relname
        order by p.pubname
    ) as publications
from unnest(%(tables)s::text[], %(columns)s::text[]) with ordinality as wanted (table_name, column_name, place)
left join pg_class as c
    on c.oid = to_regclass(
        (
            select string_agg(quote_ident(part), '.' order by place)
            from unnest(string_to_array(wanted.table_name, '.')) with ordinality as parts (part, place)
        )
    )
    and c.relkind in ('r', 'p')
left join pg_namespace as n on n.oid = c.relnamespace
left join pg_attribute as a
    on a.attrelid = c.oid and a.attname = wanted.column_name and a.attnum > 0 and not a.attisdropped
order by wanted.place
