-- Who uses a database now, and what keeps it from being renamed.
--
-- Returns   one row per session or prepared transaction: pid (null: a prepared transaction), role, application,
--           idle (in no transaction), superuser
-- Params    name  of the database
-- Locks     none
-- Needs     PostgreSQL 13 or newer; pg_monitor, or what others do is not seen and counts as work

select
    s.pid,
    s.usename::text as role,
    coalesce(s.application_name, '') as application,
    coalesce(s.state = 'idle', false) as idle,
    coalesce(r.rolsuper, false) as superuser
from pg_stat_activity as s
left join pg_roles as r on r.oid = s.usesysid
-- Autovacuum is sent away by the server itself; parallel workers end with their leaders.
where s.datname = %(name)s and s.backend_type in ('client backend', 'walsender')
union all
select
    null as pid,
    p.owner::text as role,
    p.gid as application,
    false as idle,
    false as superuser
from pg_prepared_xacts as p
where p.database = %(name)s
order by pid nulls last
