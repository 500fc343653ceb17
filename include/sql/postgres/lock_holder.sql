-- Who holds the lock because of which VACUUM or ANALYZE skipped a table.
--
-- Returns   at most one row: pid, user, application, lock mode, since when its transaction runs, its state
-- Params    schema, name  of the table
-- Locks     none beyond a normal read
-- Needs     PostgreSQL 13 or newer; pg_monitor to see other people's sessions

select
    a.pid,
    a.usename          as "user",
    a.application_name as application,
    l.mode,
    a.xact_start       as since,
    a.state
from pg_locks as l
join pg_stat_activity as a on a.pid = l.pid
join pg_class as c on c.oid = l.relation
join pg_namespace as n on n.oid = c.relnamespace
where
    l.locktype = 'relation'
    and l.granted
    and l.database = (select d.oid from pg_database as d where d.datname = current_database())
    and n.nspname = %(schema)s
    and c.relname = %(name)s
    -- The modes that conflict with VACUUM's and ANALYZE's own ShareUpdateExclusiveLock.
    and l.mode in (
        'ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'
    )
    and a.pid <> pg_backend_pid()
order by a.xact_start
limit 1
