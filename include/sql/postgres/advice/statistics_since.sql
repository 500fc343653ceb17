-- Since when this server counts what happens in this database.
--
-- From PostgreSQL 15 on a database whose statistics were never reset has no time of reset; nor has one that lost
-- them in a crash. The counters of the whole server are set back in a crash as well, and always have a time.
--
-- Returns   one row: since, in_recovery, system (identifier of the cluster), database
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 13 or newer; any role

select
    coalesce(d.stats_reset, b.stats_reset) as since,
    pg_is_in_recovery() as in_recovery,
    (select system_identifier::text from pg_control_system()) as system,
    d.datname::text as database
from pg_stat_database as d
cross join pg_stat_bgwriter as b
where d.datname = current_database()
