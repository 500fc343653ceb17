-- Whose tables we may not maintain: before PostgreSQL 17, VACUUM, ANALYZE and REINDEX ask for the owner.
--
-- Returns   one row per owner whose rights we lack: owner (quoted where needed), tables
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 10 or newer; any role

select
    quote_ident(pg_get_userbyid(tables.relowner)) as owner,
    count(*) as tables
from pg_class as tables
join pg_namespace as schemas on schemas.oid = tables.relnamespace
where
    tables.relkind in ('r', 'm', 'p')
    and schemas.nspname not in ('pg_catalog', 'information_schema', 'upkeep')
    and schemas.nspname !~ '^pg_(toast|temp)'
    and not pg_has_role(current_user, tables.relowner, 'usage')
group by tables.relowner
order by tables.relowner
