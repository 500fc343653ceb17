-- The server's roles, and which of them this role may act as: whose things it can restore.
--
-- Returns   one row per role: name, superuser, ours
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 13 or newer; any role

select
    r.rolname::text as name,
    r.rolsuper as superuser,
    pg_has_role(r.oid, 'usage')
    and pg_has_role(
        r.oid, case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end
    ) as ours
from pg_roles as r
order by name
