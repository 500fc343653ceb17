-- The server's checkpoints: how many by the clock, how many because max_wal_size was reached (or somebody asked).
--
-- Returns   one row: since, timed, requested, buffers, write_ms, max_wal_bytes
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 17 or newer (before: checkpoints_16.sql); any role

select
    c.stats_reset as since,
    c.num_timed::float8 as timed,
    c.num_requested::float8 as requested,
    c.buffers_written::float8 as buffers,
    c.write_time::float8 as write_ms,
    (select s.setting::float8 * 1024 * 1024 from pg_settings as s where s.name = 'max_wal_size') as max_wal_bytes
from pg_stat_checkpointer as c
