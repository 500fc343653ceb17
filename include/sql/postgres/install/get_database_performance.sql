-- The function `upkeep.get_database_performance(over interval)`: how the database works, now or since its reset.
--
--   psql -X -v ON_ERROR_STOP=1 -d studyspot -U upkeep_owner -f include/sql/postgres/install/get_database_performance.sql
--
--   select * from upkeep.get_database_performance('5 s');   -- counts for five seconds, then answers
--   select * from upkeep.get_database_performance();        -- since the statistics were reset
--
-- Install it again whenever you like. Rows: metric_name, metric_value, unit, since. A value is null where there is no
-- data, as right after a reset: never an error. Nothing is stored; Upkeep's weekly report has the week's.
--
-- Returns   nothing
-- Params    none
-- Locks     none that the application would notice
-- Needs     PostgreSQL 13 or newer; the owner role of roles.sql. Readers: pg_monitor

create or replace function upkeep.get_database_performance(over interval default '0')
returns table (
    metric_name text,
    metric_value numeric,
    unit text,
    since timestamptz
)
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $function$
declare
    first jsonb := '{}';
    last jsonb;
    began timestamptz;
    seconds numeric := extract(epoch from over);
    newer constant boolean := current_setting('server_version_num')::int >= 170000;
begin
    if seconds < 0 or seconds > 60 then
        raise exception 'it counts for 0 to 60 seconds, not %', over
            using errcode = 'invalid_parameter_value', hint = 'For longer times read the counters twice.';
    end if;
    for look in 1..2 loop
        -- Within one statement the statistics stand still.
        perform pg_stat_clear_snapshot();
        select to_jsonb(d) into last from pg_stat_database as d where d.datname = current_database();
        if newer then
            select last || jsonb_build_object('timed', c.num_timed, 'requested', c.num_requested)
            into last
            from pg_stat_checkpointer as c;
        else
            select last || jsonb_build_object('timed', b.checkpoints_timed, 'requested', b.checkpoints_req)
            into last
            from pg_stat_bgwriter as b;
        end if;
        if not pg_is_in_recovery() then
            last := last || jsonb_build_object('wal', pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0'));
        end if;
        exit when seconds = 0 or look = 2;
        first := last;
        began := clock_timestamp();
        perform pg_sleep_for(over);
    end loop;

    return query
    with counters as (
        -- What is less than before was reset in between: no data.
        select
            counter.name,
            case when grew.by >= 0 then grew.by end as grew
        from unnest(
            array[
                'blks_hit', 'blks_read', 'xact_commit', 'xact_rollback', 'deadlocks', 'conflicts', 'temp_files',
                'temp_bytes', 'timed', 'requested', 'wal'
            ]
        ) as counter (name)
        cross join lateral (
            select (last ->> counter.name)::numeric - coalesce((first ->> counter.name)::numeric, 0) as by
        ) as grew
    ),

    named as (
        select jsonb_object_agg(c.name, c.grew) as c from counters as c
    )

    select
        metric.name,
        metric.value,
        metric.unit,
        case when metric.counted then coalesce(began, (last ->> 'stats_reset')::timestamptz) end
    from named
    cross join lateral (
        values
        ('active_connections', (
            select count(*)
            from pg_stat_activity as a
            where
                a.datname = current_database()
                and a.backend_type = 'client backend'
                and a.state = 'active'
                and a.pid <> pg_backend_pid()
        )::numeric, 'sessions', false),
        ('database_size', pg_database_size(current_database())::numeric, 'bytes', false),
        ('cache_hit_ratio', round(
            100 * (named.c ->> 'blks_hit')::numeric
            / nullif((named.c ->> 'blks_hit')::numeric + (named.c ->> 'blks_read')::numeric, 0), 3
        ), 'percent', true),
        ('commits', (named.c ->> 'xact_commit')::numeric, 'transactions', true),
        ('rollbacks', (named.c ->> 'xact_rollback')::numeric, 'transactions', true),
        ('deadlocks', (named.c ->> 'deadlocks')::numeric, 'transactions', true),
        ('conflicts_with_recovery', (named.c ->> 'conflicts')::numeric, 'queries', true),
        ('temporary_files', (named.c ->> 'temp_files')::numeric, 'files', true),
        ('temporary_bytes', (named.c ->> 'temp_bytes')::numeric, 'bytes', true),
        ('checkpoints_timed', (named.c ->> 'timed')::numeric, 'checkpoints', true),
        ('checkpoints_requested', (named.c ->> 'requested')::numeric, 'checkpoints', true),
        -- WAL has no reset: without a time to count over there is no rate.
        ('wal_rate', case when seconds > 0 then round((named.c ->> 'wal')::numeric / seconds) end, 'bytes/s', true)
    ) as metric (name, value, unit, counted);
end
$function$;

comment on function upkeep.get_database_performance(interval) is 'How the database works, now or since its reset; installed by Upkeep.';
revoke all on function upkeep.get_database_performance(interval) from public;
grant usage on schema upkeep to pg_monitor;
grant execute on function upkeep.get_database_performance(interval) to pg_monitor;
