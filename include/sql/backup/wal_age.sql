-- How far the archive of the log is behind: what a restore to a point in time could not bring back.
--
-- Returns   one row: version, mode (off, on, always), last_archived_wal, age_s (seconds since something was archived,
--           or since the counters began), behind_bytes (written since the end of the last archived segment; null on a
--           standby, or before anything was archived)
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 13 or newer; any role

with archived as (
    select
        a.last_archived_wal,
        a.last_archived_time,
        a.stats_reset,
        pg_size_bytes(current_setting('wal_segment_size')) as segment,
        -- Names of backup labels and timelines begin with, or are shorter than, that of a segment.
        substring(a.last_archived_wal from '^[0-9A-F]{24}') as wal
    from pg_stat_archiver as a
)

select
    current_setting('server_version_num')::int as version,
    current_setting('archive_mode') as mode,
    a.last_archived_wal,
    extract(epoch from clock_timestamp() - coalesce(a.last_archived_time, a.stats_reset))::float8 as age_s,
    case
        when not pg_is_in_recovery()
            then (
                pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')
                - ('x' || substr(a.wal, 9, 8))::bit(32)::bigint * 4294967296
                - (('x' || substr(a.wal, 17, 8))::bit(32)::bigint + 1) * a.segment
            )::bigint
    end as behind_bytes
from archived as a
