-- Who keeps dead rows from being removed: whatever holds the oldest snapshot that VACUUM has to respect.
--
-- Rows that died after that snapshot stay, however often the table is vacuumed. Held by a session with an open
-- transaction (also by one that wrote and is idle now: its own number holds, without any snapshot), a prepared
-- transaction, a replication slot, or a standby with hot_standby_feedback.
--
-- Returns   at most one row: kind, name, pid, transactions the snapshot is behind, since when (null for slots that
--           are in use, and for all slots before 17)
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
        greatest(age(a.backend_xmin), age(a.backend_xid)) as transactions,
        a.xact_start         as since
    from pg_stat_activity as a
    where
        (a.backend_xmin is not null or a.backend_xid is not null)
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
        -- PostgreSQL 17 and newer.
        (to_jsonb(s) ->> 'inactive_since')::timestamptz
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
