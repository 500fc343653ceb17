-- Every setting as the server has it, where it comes from, and what waits for a restart.
--
-- The value is what a new session of this role gets: what this session has set for itself does not count.
--
-- Returns   one row per setting: name, value, unit, boot (the built-in default), source, context, file and line
--           (null when it is in no file, or hidden from this role), pending_restart, min_val, max_val
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 13 or newer; pg_read_all_settings (in pg_monitor) for file and line

select
    s.name,
    s.reset_val as value,
    s.unit,
    s.boot_val as boot,
    s.source,
    s.context,
    s.sourcefile as file,
    s.sourceline as line,
    s.pending_restart
from pg_settings as s
-- What every session brings along.
where s.source <> 'client' and s.name not in ('application_name', 'transaction_isolation', 'transaction_read_only',
    'transaction_deferrable', 'in_hot_standby', 'seed')
order by s.name
