-- The view `upkeep.slow_queries`: statements of this database that take over a second on average.
--
--   psql -X -v ON_ERROR_STOP=1 -d studyspot -U upkeep_owner -f include/sql/postgres/install/slow_queries.sql
--
-- Install it again whenever you like; it needs no change for another version of PostgreSQL or of the extension, whose
-- columns were renamed more than once, and it does not keep anybody from updating or dropping the extension: what a
-- view names, nobody can drop. `order by total_ms desc`, because a view has no order. Counters run since the last
-- reset; Upkeep's weekly report has those of the week.
--
-- Returns   nothing
-- Params    none
-- Locks     none that the application would notice
-- Needs     PostgreSQL 13 or newer; the owner role of roles.sql. Readers: pg_monitor; pg_stat_statements, preloaded

create or replace function upkeep.statements()
returns table (
    query text,
    calls bigint,
    total_ms double precision,
    mean_ms double precision,
    time_share double precision,
    rows bigint,
    hit_percent double precision,
    temp_blocks bigint,
    wal_bytes numeric
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $function$
declare
    home text := (
        select quote_ident(n.nspname)
        from pg_extension as e
        join pg_namespace as n on n.oid = e.extnamespace
        where e.extname = 'pg_stat_statements'
    );
begin
    if home is null then
        raise exception 'pg_stat_statements is not in database %', current_database()
            using errcode = 'undefined_object', hint = 'As a superuser: create extension pg_stat_statements;';
    end if;
    return query execute format(
        $query$
        select
            s.query,
            s.calls,
            timed.total_ms,
            timed.total_ms / nullif(s.calls, 0),
            timed.total_ms / nullif(sum(timed.total_ms) over (), 0),
            s.rows,
            100.0::float8 * s.shared_blks_hit / nullif(s.shared_blks_hit + s.shared_blks_read, 0),
            s.temp_blks_read + s.temp_blks_written,
            (j.columns ->> 'wal_bytes')::numeric
        from %s.pg_stat_statements as s
        cross join lateral (select to_jsonb(s) - 'query' as columns) as j
        cross join lateral (
            select coalesce(j.columns ->> 'total_exec_time', j.columns ->> 'total_time')::float8 as total_ms
        ) as timed
        where s.dbid = (select d.oid from pg_database as d where d.datname = current_database())
        $query$,
        home
    );
end
$function$;

create or replace view upkeep.slow_queries as
select
    s.query,
    s.calls,
    s.total_ms,
    s.mean_ms,
    s.time_share,
    s.rows,
    s.hit_percent,
    s.temp_blocks,
    s.wal_bytes
from upkeep.statements() as s
where s.mean_ms > 1000;

comment on function upkeep.statements() is 'Statements of this database and what they cost; installed by Upkeep.';
comment on view upkeep.slow_queries is 'Statements that take over a second on average; installed by Upkeep.';
revoke all on function upkeep.statements() from public;
revoke all on upkeep.slow_queries from public;
grant usage on schema upkeep to pg_monitor;
grant execute on function upkeep.statements() to pg_monitor;
grant select on upkeep.slow_queries to pg_monitor;
