-- A database as it is known to its server, and what another one would need to be like it.
--
-- Returns   one row per database: oid, name, owner, encoding, lc_collate, lc_ctype, provider (c libc, i ICU, b built in; null
--           before PostgreSQL 15), locale (of ICU or of the built-in provider), tablespace, connection_limit, comment
--           (empty: none), bytes (null: nobody may ask)
-- Params    name  of the database
-- Locks     none
-- Needs     PostgreSQL 13 or newer; any role; bytes need CONNECT on it, or pg_read_all_stats

select
    d.oid::bigint as oid,
    d.datname::text as name,
    pg_get_userbyid(d.datdba)::text as owner,
    pg_encoding_to_char(d.encoding)::text as encoding,
    d.datcollate::text as lc_collate,
    d.datctype::text as lc_ctype,
    -- The columns of one version are not those of the next.
    to_jsonb(d) ->> 'datlocprovider' as provider,
    coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') as locale,
    t.spcname::text as tablespace,
    d.datconnlimit as connection_limit,
    coalesce(shobj_description(d.oid, 'pg_database'), '') as comment,
    case
        when
            has_database_privilege(d.oid, 'connect')
            or (to_regrole('pg_read_all_stats') is not null and pg_has_role('pg_read_all_stats', 'usage'))
            then pg_database_size(d.oid)
    end as bytes
from pg_database as d
join pg_tablespace as t on t.oid = d.dattablespace
where d.datname = %(name)s
