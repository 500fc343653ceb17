-- Where pgstatindex is, and whether it may be called.
--
-- Returns   no row without the extension; else its schema, and whether this role may call pgstatindex(regclass)
-- Params    none
-- Locks     none beyond a normal read
-- Needs     PostgreSQL 13 or newer

select
    n.nspname as schema,
    has_function_privilege(p.oid, 'execute') and has_schema_privilege(n.oid, 'usage') as allowed
from pg_proc as p
join pg_namespace as n on n.oid = p.pronamespace
join pg_depend as d on d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
join pg_extension as e on d.refclassid = 'pg_extension'::regclass and e.oid = d.refobjid
where e.extname = 'pgstattuple' and p.proname = 'pgstatindex' and p.proargtypes[0] = 'regclass'::regtype
