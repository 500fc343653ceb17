-- What each statement of this database has cost since its statistics began.
--
-- Columns were renamed again and again (total_time 1.8, blk_read_time 1.11 …), and an extension may be older than
-- its server; so they are read by name from the row as JSON, and one that is not there is null. Our own statements
-- are left out: the application's owner cannot mend those.
--
-- Returns   one row per statement and role: key, queryid, stats_since (null before 1.11), calls, rows, exec_ms,
--           plan_ms (null before 1.8), blocks_hit, blocks_read, blocks_dirtied, temp_blocks, read_ms, wal_bytes
-- Params    none
-- Locks     none
-- Needs     pg_stat_statements in the search_path and preloaded; pg_read_all_stats

select
    concat_ws('.', s.userid, s.queryid, j.columns ->> 'toplevel') as key,
    s.queryid::text as queryid,
    (j.columns ->> 'stats_since')::timestamptz as stats_since,
    s.calls::float8 as calls,
    s.rows::float8 as rows,
    coalesce(j.columns ->> 'total_exec_time', j.columns ->> 'total_time')::float8 as exec_ms,
    (j.columns ->> 'total_plan_time')::float8 as plan_ms,
    s.shared_blks_hit::float8 as blocks_hit,
    s.shared_blks_read::float8 as blocks_read,
    s.shared_blks_dirtied::float8 as blocks_dirtied,
    (s.temp_blks_read + s.temp_blks_written)::float8 as temp_blocks,
    coalesce(j.columns ->> 'shared_blk_read_time', j.columns ->> 'blk_read_time')::float8 as read_ms,
    (j.columns ->> 'wal_bytes')::float8 as wal_bytes
-- Without the texts: of thousands of statements they are megabytes.
from pg_stat_statements(false) as s
cross join lateral (select to_jsonb(s) as columns) as j
where
    s.dbid = (select d.oid from pg_database as d where d.datname = current_database())
    and s.userid <> (select r.oid from pg_roles as r where r.rolname = current_user)
    and s.queryid is not null
