-- The server's checkpoints: how many by the clock, how many because max_wal_size was reached (or somebody asked).
--
-- Returns   one row: since, timed, requested, buffers, write_ms, max_wal_bytes
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 13 to 16 (from 17 on: checkpoints.sql); any role

select
    b.stats_reset as since,
    b.checkpoints_timed::float8 as timed,
    b.checkpoints_req::float8 as requested,
    b.buffers_checkpoint::float8 as buffers,
    b.checkpoint_write_time::float8 as write_ms,
    (select s.setting::float8 * 1024 * 1024 from pg_settings as s where s.name = 'max_wal_size') as max_wal_bytes
from pg_stat_bgwriter as b
