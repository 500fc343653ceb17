-- Replication slots and the WAL they hold back.
--
-- Nobody reads an inactive slot, yet the server keeps everything since: until the disk is full, or until
-- max_slot_wal_keep_size gives the slot up (wal_status lost).
--
-- Returns   one row per slot: name, slot_type, database, active, wal_status, retained_bytes (null before it is used)
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 13 or newer, a primary; any role

select
    slot_name::text      as name,
    slot_type,
    database::text,
    active,
    wal_status,
    pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint as retained_bytes
from pg_replication_slots
where not temporary
order by slot_name
