-- Logical replication slots of a database: they stay with it, whatever it is called.
--
-- Returns   one row per slot: name
-- Params    name  of the database
-- Locks     none
-- Needs     PostgreSQL 13 or newer; any role

select s.slot_name::text as name
from pg_replication_slots as s
where s.database = %(name)s
order by name
