-- How much of a B-tree is air, read off a few hundred of its pages: the same cost whatever its size.
--
-- Returns   one row: pages without the first, how many of the sample are leaves, how many are empty (deleted, waiting
--           to be used again), bytes that could hold entries on those leaves, bytes of them that are free
-- Params    index  its oid
--           most   pages to look at; one out of each of as many equal strata
-- Locks     that of a read, on the index, for milliseconds
-- Needs     PostgreSQL 13 or newer; upkeep.sample_index_pages of roles.sql

select
    s.pages,
    s.leaves,
    s.empty,
    s.usable_bytes,
    s.free_bytes
from upkeep.sample_index_pages(%(index)s::bigint::oid::regclass, %(most)s::int) as s
