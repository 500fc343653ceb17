-- Whether WAL is being archived.
--
-- Returns   one row: mode (off, on, always), archived, failed, last_archived_wal, last_archived_at, last_failed_wal,
--           last_failed_at, failing (it failed, and nothing was archived since), failing_s (seconds since the
--           first thing known: the last success, or the reset of the counters)
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 10 or newer; any role

select
    current_setting('archive_mode') as mode,
    archived_count       as archived,
    failed_count         as failed,
    last_archived_wal,
    last_archived_time   as last_archived_at,
    last_failed_wal,
    last_failed_time     as last_failed_at,
    failed_count > 0 and (last_archived_time is null or last_failed_time > last_archived_time) as failing,
    extract(epoch from clock_timestamp() - coalesce(last_archived_time, stats_reset))::float8 as failing_s
from pg_stat_archiver
