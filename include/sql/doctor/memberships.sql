-- Which of PostgreSQL's own roles we have the rights of.
--
-- Returns   one row per name: role, known (to this version), held
-- Params    names  array of role names
-- Locks     none
-- Needs     PostgreSQL 10 or newer; any role

select
    wanted.name as role,
    there.oid is not null as known,
    there.oid is not null and pg_has_role(current_user, there.oid, 'usage') as held
from unnest(%(names)s::text[]) with ordinality as wanted (name, place)
left join pg_roles as there on there.rolname = wanted.name
order by wanted.place
