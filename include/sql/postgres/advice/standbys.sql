-- The standbys that stream from this server, and can answer questions.
--
-- Returns   one row per standby: name, address (null for a local socket)
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 10 or newer; pg_monitor

select
    coalesce(nullif(application_name, ''), host(client_addr), 'pid ' || pid) as name,
    host(client_addr) as address
from pg_stat_replication
-- A backup or an archive of WAL is no server.
where state in ('streaming', 'catchup') and application_name not in ('pg_basebackup', 'pg_receivewal')
order by name
