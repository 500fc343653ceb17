-- One table before or after it was cared for.
--
-- Returns   no row when the table is gone; dead and live rows, transactions and multixacts not yet frozen, bytes, and
--           how often it was vacuumed and analyzed by hand
-- Params    schema, name  of the table
-- Locks     none on the table: its size is the catalog's, because asking for the real one waits for the table's lock
-- Needs     PostgreSQL 13 or newer

select
    pg_stat_get_live_tuples(c.oid)                                  as live_rows,
    pg_stat_get_dead_tuples(c.oid)
    + coalesce(pg_stat_get_dead_tuples(nullif(c.reltoastrelid, 0)), 0) as dead_rows,
    age(c.relfrozenxid)                                             as transactions_unfrozen,
    mxid_age(c.relminmxid)                                          as multixacts_unfrozen,
    c.relpages::bigint * current_setting('block_size')::int         as bytes,
    pg_stat_get_vacuum_count(c.oid)                                 as vacuums,
    pg_stat_get_analyze_count(c.oid)                                as analyzes,
    pg_current_wal_lsn()::text                                      as lsn
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
where n.nspname = %(schema)s and c.relname = %(name)s
