-- Since when pg_stat_statements counts, and how often it had to forget statements for want of room.
--
-- Returns   one row: since, forgotten
-- Params    none
-- Locks     none
-- Needs     pg_stat_statements 1.9 (PostgreSQL 14) or newer, in the search_path

select
    i.stats_reset as since,
    i.dealloc::float8 as forgotten
from pg_stat_statements_info as i
