-- The statements that speak of a table, those that cost the most first.
--
-- Returns   up to 50 rows: queryid, text (its first 10,000 characters), calls, exec_ms, rows, blocks
-- Params    name  of the table, as a regular expression
-- Locks     none
-- Needs     pg_stat_statements in the search_path and preloaded; pg_read_all_stats

select
    s.queryid::text as queryid,
    left(min(s.query), 10000) as text,
    sum(s.calls)::float8 as calls,
    sum(coalesce(j.columns ->> 'total_exec_time', j.columns ->> 'total_time')::float8) as exec_ms,
    sum(s.rows)::float8 as rows,
    sum(s.shared_blks_hit + s.shared_blks_read)::float8 as blocks
from pg_stat_statements as s
cross join lateral (select to_jsonb(s) - 'query' as columns) as j
where
    s.dbid = (select d.oid from pg_database as d where d.datname = current_database())
    and s.userid <> (select r.oid from pg_roles as r where r.rolname = current_user)
    and s.query ~* ('\m' || %(name)s || '\M')
    and s.query ~* '\mwhere\M|\mon\M'
group by s.queryid
order by exec_ms desc
limit 50
