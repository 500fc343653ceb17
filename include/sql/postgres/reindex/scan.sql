-- How much of a B-tree is air, by reading all of it; where its pages may not be sampled.
--
-- Returns   one row: pages without the first, how many are leaves, how many are empty, how full the leaves are, in percent
-- Params    index  its oid
-- Locks     that of a read, on the index, for as long as reading it takes
-- Needs     PostgreSQL 13 or newer; extension pgstattuple, pg_stat_scan_tables (part of pg_monitor)

select
    s.index_size / current_setting('block_size')::int - 1 as pages,
    s.leaf_pages                                          as leaves,
    s.empty_pages + s.deleted_pages                       as empty,
    s.avg_leaf_density                                    as density
from pgstatindex(%(index)s::bigint::oid::regclass) as s
