-- The texts of some statements.
--
-- Returns   one row per id: queryid, text (its first 10,000 characters)
-- Params    queryids  array of ids as text
-- Locks     none
-- Needs     pg_stat_statements in the search_path and preloaded; pg_read_all_stats

select
    s.queryid::text as queryid,
    left(min(s.query), 10000) as text
from pg_stat_statements as s
where
    s.dbid = (select d.oid from pg_database as d where d.datname = current_database())
    and s.queryid = any(%(queryids)s::text[]::bigint[])
group by s.queryid
