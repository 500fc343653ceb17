-- Which cluster a base backup would be of, and whether its log can be kept.
--
-- Returns   one row: version, system_identifier, database, superuser (the role that initdb made), standby, wal_level,
--           timeline, segment_bytes, source_bytes (all databases), tablespaces (beside the two of every cluster),
--           summarize (null before PostgreSQL 17), replication (whether this role may), at
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 13 or newer; role pg_monitor is enough

select
    current_setting('server_version_num')::int as version,
    (select c.system_identifier::text from pg_control_system() as c) as system_identifier,
    current_database()::text as database,
    (select r.rolname::text from pg_roles as r where r.oid = 10) as superuser,
    pg_is_in_recovery() as standby,
    current_setting('wal_level') as wal_level,
    (select c.timeline_id from pg_control_checkpoint() as c) as timeline,
    pg_size_bytes(current_setting('wal_segment_size')) as segment_bytes,
    (select sum(pg_database_size(d.oid))::bigint from pg_database as d) as source_bytes,
    (select count(*) from pg_tablespace as t where t.spcname not in ('pg_default', 'pg_global')) as tablespaces,
    current_setting('summarize_wal', true)::bool as summarize,
    (select r.rolreplication or r.rolsuper from pg_roles as r where r.rolname = current_user) as replication,
    clock_timestamp() as at
