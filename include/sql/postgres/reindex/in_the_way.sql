-- Transactions for which REINDEX CONCURRENTLY would wait, some of them only after it has built everything.
--
-- It waits for whoever holds any lock on the table (writers before the build, everybody before the old index goes), and
-- for every snapshot in the database that is older than the build. Neither VACUUMs of other tables nor autovacuum's
-- ANALYZE of them are waited for.
--
-- Returns   one row per transaction, the oldest first: a stable id, pid (null when prepared), who, state, since when,
--           how many seconds ago, the lock it holds on the table (null: only an old snapshot), whether it is an
--           autovacuum against wraparound, which nobody must get in the way of
-- Params    schema, name  of the table
-- Locks     none beyond a normal read
-- Needs     PostgreSQL 13 or newer; pg_monitor to see other people's sessions

with wanted as (
    select
        c.oid as relation,
        d.oid as database
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    join pg_database as d on d.datname = current_database()
    where n.nspname = %(schema)s and c.relname = %(name)s
),

locks as (
    select
        l.pid,
        l.virtualtransaction,
        (array_agg(l.mode order by array_position(
            array[
                'AccessExclusiveLock', 'ExclusiveLock', 'ShareRowExclusiveLock', 'ShareLock',
                'ShareUpdateExclusiveLock', 'RowExclusiveLock', 'RowShareLock', 'AccessShareLock'
            ],
            l.mode
        )))[1] as mode
    from pg_locks as l
    join wanted on wanted.relation = l.relation and wanted.database = l.database
    where l.locktype = 'relation' and l.pid is distinct from pg_backend_pid()
    group by l.pid, l.virtualtransaction
)

select
    concat_ws(' ', a.pid, extract(epoch from a.backend_start), extract(epoch from a.xact_start)) as id,
    a.pid,
    coalesce(nullif(concat_ws(' ', a.usename, nullif(a.application_name, '')), ''), a.backend_type) as who,
    coalesce(a.state, a.backend_type)   as state,
    a.xact_start                        as since,
    extract(epoch from clock_timestamp() - a.xact_start)::float8 as seconds,
    l.mode,
    a.backend_type = 'autovacuum worker' and a.query like '%%to prevent wraparound%%' as wraparound
from pg_stat_activity as a
left join locks as l on l.pid = a.pid
where
    a.pid <> pg_backend_pid()
    and a.datname = current_database()
    and a.xact_start is not null
    and (
        l.mode is not null
        or a.backend_xmin is not null
        and a.backend_type <> 'autovacuum worker'
        and not exists (select from pg_stat_progress_vacuum as v where v.pid = a.pid)
    )
union all
select
    'prepared ' || p.gid,
    null,
    p.owner || ' prepared transaction ' || p.gid,
    'prepared',
    p.prepared,
    extract(epoch from clock_timestamp() - p.prepared)::float8,
    l.mode,
    false
from locks as l
join pg_locks as x on x.locktype = 'transactionid' and x.pid is null and x.virtualtransaction = l.virtualtransaction
join pg_prepared_xacts as p on p.transaction = x.transactionid
where l.pid is null
order by since
