-- Every table of the application: how it is read, how it has changed, what the planner knows of it.
--
-- Parts of a partitioned table stand for themselves: each is scanned, vacuumed and analyzed on its own.
--
-- Returns   one row per table or materialized view: oid, schema, name, spoken (the name that statements use: that of
--           the whole for a part), rows, bytes (heap), total_bytes (with TOAST
--           and indexes), seq_scans, seq_rows (read by them), index_scans, inserted, updated, hot_updated, deleted,
--           changed (since ANALYZE), analyzed_at, vacuumed_at, analyses, without_statistics (columns that the
--           planner knows nothing of), xid_age
-- Params    none
-- Locks     none: sizes are the catalog's
-- Needs     PostgreSQL 13 or newer; any role

select
    c.oid::bigint as oid,
    n.nspname as schema,
    c.relname as name,
    (select r.relname from pg_class as r where r.oid = coalesce(pg_partition_root(c.oid), c.oid)) as spoken,
    greatest(c.reltuples, s.n_live_tup, 0)::float8 as rows,
    c.relpages::bigint * current_setting('block_size')::int as bytes,
    (
        c.relpages::bigint + coalesce(toast.relpages, 0)
        + coalesce((
            select sum(ic.relpages)
            from pg_index as i
            join pg_class as ic on ic.oid = i.indexrelid
            where i.indrelid in (c.oid, c.reltoastrelid)
        ), 0)
    )::bigint * current_setting('block_size')::int as total_bytes,
    s.seq_scan::float8 as seq_scans,
    s.seq_tup_read::float8 as seq_rows,
    coalesce(s.idx_scan, 0)::float8 as index_scans,
    s.n_tup_ins::float8 as inserted,
    s.n_tup_upd::float8 as updated,
    s.n_tup_hot_upd::float8 as hot_updated,
    s.n_tup_del::float8 as deleted,
    s.n_mod_since_analyze::float8 as changed,
    greatest(s.last_analyze, s.last_autoanalyze) as analyzed_at,
    greatest(s.last_vacuum, s.last_autovacuum) as vacuumed_at,
    (s.analyze_count + s.autoanalyze_count)::bigint as analyses,
    (
        select count(*)
        from pg_attribute as a
        where
            a.attrelid = c.oid
            and a.attnum > 0
            and not a.attisdropped
            -- What this role may not see, and what is computed when it is read, is no gap.
            and not c.relrowsecurity
            and has_column_privilege(c.oid, a.attnum, 'select')
            and a.attgenerated <> 'v'
            -- 0 switches a column's statistics off.
            and coalesce((to_jsonb(a) ->> 'attstattarget')::int, -1) <> 0
            and not exists (select from pg_stats as known
                where known.schemaname = n.nspname and known.tablename = c.relname and known.attname = a.attname)
    ) as without_statistics,
    age(c.relfrozenxid)::bigint as xid_age
from pg_stat_user_tables as s
join pg_class as c on c.oid = s.relid
join pg_namespace as n on n.oid = c.relnamespace
left join pg_class as toast on toast.oid = c.reltoastrelid
where
    c.relkind in ('r', 'm')
    and c.relpersistence <> 't'
    and n.nspname <> 'information_schema'
order by total_bytes desc, n.nspname, c.relname
