-- Whether the function that looks into pages of indexes is there, and may be called.
--
-- Returns   one row: there, allowed, and whether the server has the extension pageinspect at all
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 10 or newer; any role

select
    sampler.oid is not null as there,
    coalesce(has_function_privilege(current_user, sampler.oid, 'execute'), false) as allowed,
    exists (select from pg_available_extensions as e where e.name = 'pageinspect') as available
from (select) as one
left join pg_namespace as schemas on schemas.nspname = 'upkeep'
left join pg_proc as sampler on sampler.pronamespace = schemas.oid and sampler.proname = 'sample_index_pages'
