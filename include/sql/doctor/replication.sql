-- Whether this role may copy the whole cluster and its log, and whether the server is made for it.
--
-- Returns   one row: allowed, wal_level, summarizes (false before PostgreSQL 17), tablespaces (beside the two of every
--           cluster)
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 13 or newer; any role

select
    (select r.rolreplication or r.rolsuper from pg_roles as r where r.rolname = current_user) as allowed,
    current_setting('wal_level') as wal_level,
    coalesce(current_setting('summarize_wal', true)::bool, false) as summarizes,
    (select count(*) from pg_tablespace as t where t.spcname not in ('pg_default', 'pg_global')) as tablespaces
