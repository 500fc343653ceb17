-- Which database of which cluster is dumped, and where its log stands.
--
-- Returns   one row: version, system_identifier, wal_position, name, source_bytes, encoding, locale
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 13 or newer; role pg_monitor is enough

select
    current_setting('server_version_num')::int as version,
    coalesce(
        case
            when has_function_privilege('pg_control_system()', 'execute')
                then (select c.system_identifier::text from pg_control_system() as c)
        end,
        ''
    ) as system_identifier,
    case
        when pg_is_in_recovery() then pg_last_wal_replay_lsn()
        else pg_current_wal_lsn()
    end::text as wal_position,
    d.datname::text as name,
    pg_database_size(d.oid) as source_bytes,
    pg_encoding_to_char(d.encoding)::text as encoding,
    d.datcollate::text as locale
from pg_database as d
where d.datname = current_database()
