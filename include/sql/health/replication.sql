-- How far behind the physical standbys are.
--
-- Base backups and WAL receivers without a server (pg_receivewal) are not standbys; neither are logical subscribers.
--
-- Returns   one row per standby: name, address, state, sync_state, lag_s (null when it has replayed all),
--           lag_bytes (sent but not replayed), silent_s (seconds since it last reported)
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 12 or newer, a primary; pg_monitor, otherwise the columns are null

select
    r.application_name                       as name,
    coalesce(host(r.client_addr), 'local')   as address,
    r.state,
    r.sync_state,
    extract(epoch from r.replay_lag)::float8 as lag_s,
    pg_wal_lsn_diff(pg_current_wal_lsn(), coalesce(r.replay_lsn, r.sent_lsn))::bigint as lag_bytes,
    extract(epoch from clock_timestamp() - r.reply_time)::float8 as silent_s
from pg_stat_replication as r
where
    r.state <> 'backup'
    and r.application_name not in ('pg_basebackup', 'pg_receivewal')
    and not exists (
        select from pg_replication_slots as s
        where s.active_pid = r.pid and s.slot_type = 'logical'
    )
order by r.application_name, address
