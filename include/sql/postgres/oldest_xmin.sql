-- Who keeps dead rows from being removed: whatever holds the oldest snapshot that VACUUM has to respect.
--
-- Rows that died after that snapshot stay, however often the table is vacuumed. Held by a session with an open
-- transaction, a prepared transaction, a replication slot, or a standby with hot_standby_feedback.
--
-- Returns   at most one row: kind, name, pid, transactions the snapshot is behind, since when (null for slots)
-- Params    none
-- Locks     none beyond a normal read
-- Needs     PostgreSQL 13 or newer; pg_monitor to see other people's sessions

select
    holder.kind,
    holder.name,
    holder.pid,
    holder.transactions,
    holder.since
from (
    select
        case when a.backend_type = 'walsender' then 'standby' else 'session' end as kind,
        concat_ws(' ', a.usename, nullif(a.application_name, '')) as name,
        a.pid,
        age(a.backend_xmin)  as transactions,
        a.xact_start         as since
    from pg_stat_activity as a
    where
        a.backend_xmin is not null
        and a.pid <> pg_backend_pid()
        -- Other databases' snapshots do not matter here; a walsender's do.
        and (a.datname = current_database() or a.backend_type = 'walsender')
        -- VACUUM ignores other VACUUMs.
        and not exists (select from pg_stat_progress_vacuum as v where v.pid = a.pid)
    union all
    select
        'slot',
        s.slot_name::text,
        s.active_pid,
        age(s.xmin),
        null
    from pg_replication_slots as s
    where s.xmin is not null
    union all
    select
        'prepared transaction',
        p.gid,
        null,
        age(p.transaction),
        p.prepared
    from pg_prepared_xacts as p
    where p.database = current_database()
) as holder
order by holder.transactions desc, holder.since
limit 1
