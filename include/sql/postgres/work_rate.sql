-- How fast VACUUM and ANALYZE went lately, for predicting how long they will take.
--
-- Returns   at most two rows: job (vacuum or analyze), deeds, rate (median of bytes per second)
-- Params    platform
-- Locks     none beyond a normal read
-- Needs     the ledger

select
    case when lately.arm = 'analyze' then 'analyze' else 'vacuum' end as job,
    count(*)::int as deeds,
    percentile_cont(0.5) within group (order by lately.work_bytes / lately.seconds)::float8 as rate
from (
    select
        a.after ->> 'arm'                       as arm,
        (a.after ->> 'work_bytes')::float8      as work_bytes,
        (a.after ->> 'seconds')::float8         as seconds
    from actions as a
    where
        a.platform = %(platform)s
        and a.capability = 'postgres'
        and a.verb = 'vacuum'
        and a.state = 'done'
        -- Smaller ones are over before a speed can be told.
        and (a.after ->> 'work_bytes')::float8 >= 8388608
        and (a.after ->> 'seconds')::float8 > 0
    order by a.id desc
    limit 200
) as lately
group by job
