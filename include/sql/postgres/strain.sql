-- What strains the server now, as far as maintenance would make it worse.
--
-- Returns   rows of kind, name, value: standby_lag (seconds; none when it has replayed all) and standby_bytes (WAL it
--           has not replayed), one each per physical standby; slot_bytes (WAL it holds back), one per slot in use;
--           wal_backlog, finished WAL segments that wait to be archived; sessions, the share of max_connections that
--           is at work, maintenance not counted
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 13 or newer, a primary; pg_monitor

select
    'standby_lag'                                   as kind,
    coalesce(nullif(r.application_name, ''), host(r.client_addr), 'local') as name,
    extract(epoch from r.replay_lag)::float8        as value
from pg_stat_replication as r
where
    r.replay_lag is not null
    and r.state <> 'backup'
    and r.application_name not in ('pg_basebackup', 'pg_receivewal')
    and not exists (select from pg_replication_slots as s where s.active_pid = r.pid and s.slot_type = 'logical')
union all
select
    'standby_bytes',
    coalesce(nullif(r.application_name, ''), host(r.client_addr), 'local'),
    pg_wal_lsn_diff(pg_current_wal_lsn(), coalesce(r.replay_lsn, r.sent_lsn))::float8
from pg_stat_replication as r
where
    r.state <> 'backup'
    and r.application_name not in ('pg_basebackup', 'pg_receivewal')
    and not exists (select from pg_replication_slots as s where s.active_pid = r.pid and s.slot_type = 'logical')
union all
select
    'slot_bytes',
    s.slot_name::text,
    pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::float8
from pg_replication_slots as s
where not s.temporary and s.restart_lsn is not null
union all
select
    'wal_backlog',
    '',
    -- Only pg_monitor may look, so a role without it fails here and is not told that all is well.
    (select count(*) from pg_ls_archive_statusdir() as f where f.name like '%.ready')::float8
union all
select
    'sessions',
    '',
    count(*)::float8 / current_setting('max_connections')::int
from pg_stat_activity as a
where
    a.backend_type = 'client backend'
    and a.state in ('active', 'fastpath function call')
    and a.application_name not like 'upkeep%'
    and a.pid <> pg_backend_pid()
order by kind, name
