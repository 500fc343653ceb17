-- Functions of an extension that we may not call.
--
-- Returns   one row per function: function (as GRANT wants it)
-- Params    extension  its name
-- Locks     none
-- Needs     PostgreSQL 10 or newer; any role

select depend.objid::regprocedure::text as function
from pg_depend as depend
join pg_extension as owning
    on depend.refclassid = 'pg_extension'::regclass and depend.refobjid = owning.oid
where
    owning.extname = %(extension)s
    and depend.classid = 'pg_proc'::regclass
    and depend.deptype = 'e'
    and not has_function_privilege(current_user, depend.objid, 'execute')
order by 1
