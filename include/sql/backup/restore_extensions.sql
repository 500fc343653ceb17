-- Which extensions can be created here by a role that is no superuser.
--
-- Returns   one row per name: name, available, trusted (a database's owner may create it)
-- Params    names  array of extensions
-- Locks     none
-- Needs     PostgreSQL 13 or newer; any role

select
    wanted.name,
    count(v.name) > 0 as available,
    coalesce(bool_or(v.version = a.default_version and (v.trusted or not v.superuser)), false) as trusted
from unnest(%(names)s::text[]) as wanted (name)
left join pg_available_extensions as a on a.name = wanted.name
left join pg_available_extension_versions as v on v.name = a.name
group by wanted.name
order by wanted.name
