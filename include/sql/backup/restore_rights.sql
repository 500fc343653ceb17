-- Whether this role may put another database in the place of one.
--
-- Returns   one row: role and quoted_role, createdb, signals (may end sessions of others), owner and quoted_owner (of the
--           database; null: there is no such database), owns (may act as that owner), becomes (may make databases that belong to it)
-- Params    name  of the database
-- Locks     none
-- Needs     PostgreSQL 13 or newer; any role

select
    r.rolname::text as role,
    quote_ident(r.rolname) as quoted_role,
    r.rolcreatedb or r.rolsuper as createdb,
    pg_has_role('pg_signal_backend', 'usage') as signals,
    pg_get_userbyid(d.datdba)::text as owner,
    quote_ident(pg_get_userbyid(d.datdba)) as quoted_owner,
    pg_has_role(d.datdba, 'usage') as owns,
    -- From PostgreSQL 16 on a member need not be allowed to become the role.
    pg_has_role(
        d.datdba, case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end
    ) as becomes
from pg_roles as r
left join pg_database as d on d.datname = %(name)s
where r.rolname = current_user
