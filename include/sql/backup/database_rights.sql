-- Who may do what with a database, whoever gave the right.
--
-- Returns   one row per right: grantee (empty: everybody), privilege, grantable
-- Params    name  of the database
-- Locks     none
-- Needs     PostgreSQL 13 or newer; any role

select distinct
    case when a.grantee = 0 then '' else pg_get_userbyid(a.grantee)::text end as grantee,
    a.privilege_type as privilege,
    a.is_grantable as grantable
from pg_database as d
cross join lateral aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) as a
where d.datname = %(name)s
order by grantee, privilege, grantable
