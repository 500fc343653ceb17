-- The slot that keeps the log on the server until it lies in the archive.
--
-- Returns   one row when there is such a slot: begin (the oldest place in the log that is kept; null before any was),
--           wal_status (lost: it is not kept any more), active
-- Params    slot  its name
-- Locks     none
-- Needs     PostgreSQL 13 or newer; any role

select
    s.restart_lsn::text as begin,
    s.wal_status,
    s.active
from pg_replication_slots as s
where s.slot_name = %(slot)s and s.slot_type = 'physical'
