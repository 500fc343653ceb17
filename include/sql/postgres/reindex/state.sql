-- One index right before and right after it is rebuilt.
--
-- Returns   no row when it is gone; its oid, whether it is valid, its bytes on disk, rows as last counted, position in
--           the WAL
-- Params    schema, name  of the index
-- Locks     that of a read, on the index, for a moment
-- Needs     PostgreSQL 13 or newer

select
    c.oid::bigint                           as oid,
    i.indisvalid                            as valid,
    pg_relation_size(c.oid)                 as bytes,
    c.reltuples::float8                     as rows,
    pg_current_wal_lsn()::text              as lsn
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
join pg_index as i on i.indexrelid = c.oid
where n.nspname = %(schema)s and c.relname = %(name)s
