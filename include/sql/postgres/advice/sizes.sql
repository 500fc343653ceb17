-- How large this database is, and since when its statistics count.
--
-- Returns   one row: database, database_bytes, page (bytes of one), since
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 13 or newer; CONNECT on the database, or pg_read_all_stats

select
    d.datname::text as database,
    pg_database_size(d.datname) as database_bytes,
    current_setting('block_size')::int as page,
    coalesce(d.stats_reset, b.stats_reset) as since
from pg_stat_database as d
cross join pg_stat_bgwriter as b
where d.datname = current_database()
