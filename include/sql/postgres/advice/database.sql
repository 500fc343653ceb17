-- What this database has done since its statistics began.
--
-- Returns   one row: since (null when the statistics were never reset), commits, rollbacks, blocks_read, blocks_hit,
--           conflicts, temp_files, temp_bytes, deadlocks, checksum_failures (null without checksums), wal_bytes
--           (ever written by this cluster; null on a standby), database
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 13 or newer; any role

select
    d.datname::text as database,
    d.stats_reset as since,
    d.xact_commit::float8 as commits,
    d.xact_rollback::float8 as rollbacks,
    d.blks_read::float8 as blocks_read,
    d.blks_hit::float8 as blocks_hit,
    d.conflicts::float8 as conflicts,
    d.temp_files::float8 as temp_files,
    d.temp_bytes::float8 as temp_bytes,
    d.deadlocks::float8 as deadlocks,
    d.checksum_failures::float8 as checksum_failures,
    case when not pg_is_in_recovery() then pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') end::float8 as wal_bytes
from pg_stat_database as d
where d.datname = current_database()
