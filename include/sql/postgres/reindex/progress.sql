-- How far the REINDEX of one session is.
--
-- Returns   no row when it builds nothing; its phase, pid of whom it waits for and who that is, share of the blocks of
--           this phase that are done
-- Params    pid  of the session
-- Locks     none beyond a normal read
-- Needs     PostgreSQL 13 or newer; pg_monitor

select
    p.phase,
    nullif(p.current_locker_pid, 0)                            as waits_for,
    concat_ws(' ', a.usename, nullif(a.application_name, ''), '(' || a.state || ')') as who,
    p.blocks_done / nullif(p.blocks_total, 0)::float8          as share
from pg_stat_progress_create_index as p
left join pg_stat_activity as a on a.pid = nullif(p.current_locker_pid, 0)
where p.pid = %(pid)s
