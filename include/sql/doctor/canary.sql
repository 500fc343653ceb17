-- Whether the write probe's table is there, and what we may not do with it.
--
-- Returns   one row: there, enter (USAGE on its schema), missing (array of privileges)
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 10 or newer; any role

select
    canary.oid is not null as there,
    coalesce(has_schema_privilege(current_user, schemas.oid, 'usage'), false) as enter,
    array(
        select privilege.name
        from unnest(array['select', 'insert', 'update', 'delete']) as privilege (name)
        where not has_table_privilege(current_user, canary.oid, privilege.name)
    ) as missing
from (select) as one
left join pg_namespace as schemas on schemas.nspname = 'upkeep'
left join pg_class as canary on canary.relnamespace = schemas.oid and canary.relname = 'canary'
