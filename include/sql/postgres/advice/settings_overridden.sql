-- Settings that a database or a role has for itself.
--
-- Returns   one row per setting: whose (``role app``, ``database x``, ``role app in database x``), name, value
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 13 or newer; any role

select
    concat_ws(' in ', 'role ' || r.rolname, 'database ' || d.datname) as whose,
    split_part(entry.assignment, '=', 1) as name,
    substr(entry.assignment, strpos(entry.assignment, '=') + 1) as value
from pg_db_role_setting as s
left join pg_roles as r on r.oid = s.setrole
left join pg_database as d on d.oid = s.setdatabase
cross join unnest(s.setconfig) as entry (assignment)
where s.setdatabase = 0 or d.datname = current_database()
order by whose, name
