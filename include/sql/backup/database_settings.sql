-- The settings that a database's sessions begin with (ALTER DATABASE … SET, ALTER ROLE … IN DATABASE … SET).
--
-- Returns   one row per setting: role (empty: everybody), name, value
-- Params    name  of the database
-- Locks     none
-- Needs     PostgreSQL 13 or newer; any role

select
    case when s.setrole = 0 then '' else pg_get_userbyid(s.setrole)::text end as role,
    split_part(one.setting, '=', 1) as name,
    substr(one.setting, strpos(one.setting, '=') + 1) as value
from pg_db_role_setting as s
join pg_database as d on d.oid = s.setdatabase
cross join lateral unnest(s.setconfig) as one (setting)
where d.datname = %(name)s
order by role, name
