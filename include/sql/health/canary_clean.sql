-- Removes the row of a write probe, and those that killed probes left behind.
--
-- Returns   id of each removed row
-- Params    id  as written
-- Locks     rows of upkeep.canary that no live probe uses
-- Needs     include/sql/postgres/roles.sql was run

delete from upkeep.canary
where id = %(id)s or (id < 0 and beat < clock_timestamp() - interval '1 hour')
returning id
