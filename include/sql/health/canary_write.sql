-- Writes one row: a server that answers questions may still refuse to write.
--
-- Committed on its own, so that WAL, disk and synchronous standbys take part.
--
-- Returns   nothing
-- Params    id   negative: a probe's; the heartbeat's are positive
--           run  who wrote it
-- Locks     one row of upkeep.canary
-- Needs     include/sql/postgres/roles.sql was run

insert into upkeep.canary (id, beat, run) values (%(id)s, clock_timestamp(), %(run)s)
