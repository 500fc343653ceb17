-- What a REINDEX CONCURRENTLY that was interrupted has left behind: indexes that cost writes and serve nobody.
--
-- `_ccnew` is the new index that was never finished. `_ccold` is the old one after the swap: the rebuild is done, only
-- this remains. PostgreSQL cuts the base name so that all fits into 63 bytes. Indexes somebody works on now are left out.
--
-- Returns   one row per leftover: its oid, schema, name, kind, bytes, its table; name and oid of the index that it
--           belongs to (null when no index of the table has that name: then nobody knows whose it is); whether this
--           role may drop it
-- Params    none
-- Locks     that of a read, on the leftover, for a moment
-- Needs     PostgreSQL 13 or newer

with found as (
    select
        i.indrelid,
        c.oid,
        c.relname,
        c.relnamespace,
        c.relowner,
        case when c.relname ~ '_ccnew[0-9]*$' then 'ccnew' else 'ccold' end as kind,
        regexp_replace(c.relname, '_cc(new|old)[0-9]*$', '') as base
    from pg_index as i
    join pg_class as c on c.oid = i.indexrelid
    where
        c.relkind = 'i'
        and not i.indisvalid
        and c.relname ~ '_cc(new|old)[0-9]*$'
        -- Whoever builds or drops an index concurrently holds this lock on it all the time.
        and not exists (
            select from pg_locks as l
            where
                l.locktype = 'relation'
                and l.relation = c.oid
                and l.database = (select d.oid from pg_database as d where d.datname = current_database())
                and l.mode in ('ShareUpdateExclusiveLock', 'AccessExclusiveLock')
        )
        and not exists (
            select from pg_stat_progress_create_index as p
            where p.datname = current_database() and (p.relid = i.indrelid or p.index_relid = c.oid)
        )
)

select
    f.oid::bigint           as oid,
    n.nspname               as schema,
    f.relname               as name,
    f.kind,
    pg_relation_size(f.oid) as bytes,
    tn.nspname              as table_schema,
    t.relname               as table_name,
    owning.relname          as of_index,
    owning.oid::bigint      as of_oid,
    pg_has_role(f.relowner, 'usage') and has_schema_privilege(f.relnamespace, 'usage') as allowed
from found as f
join pg_namespace as n on n.oid = f.relnamespace
join pg_class as t on t.oid = f.indrelid
join pg_namespace as tn on tn.oid = t.relnamespace
left join lateral (
    select b.relname, b.oid
    from pg_index as s
    join pg_class as b on b.oid = s.indexrelid
    where
        s.indrelid = f.indrelid
        and s.indisvalid
        -- Cut at a character, so up to three bytes more may be missing.
        and (
            b.relname = f.base
            or octet_length(f.relname) >= 60 and octet_length(f.base) < octet_length(b.relname)
            and starts_with(b.relname, f.base)
        )
    order by octet_length(b.relname), b.relname
    limit 1
) as owning on true
order by n.nspname, f.relname
