-- What the configuration files say and the server does not do: mistakes, and what waits for a restart.
--
-- Returns   one row per entry that is not applied: file, line, name, value, error
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 13 or newer; SELECT on pg_file_settings and EXECUTE on pg_show_all_file_settings()

select
    f.sourcefile as file,
    f.sourceline as line,
    f.name,
    f.setting as value,
    f.error
from pg_file_settings as f
where f.error is not null
order by f.seqno
