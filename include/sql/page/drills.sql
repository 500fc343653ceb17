-- The drills of some platforms, the newest of each kind first in its kind.
--
-- Returns   one row per drill that has ended, newest first; at most so many of each kind
-- Params    platforms in an array, most
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0010

select
    d.platform,
    d.act,
    d.scenario,
    d.started_at,
    d.rto_s,
    d.rpo_s,
    d.rto_target_s,
    d.rpo_target_s,
    d.act_verdict,
    d.validation_verdict,
    d.cleanup_verdict,
    d.reason,
    d.environment,
    d.dag_id,
    d.run_id,
    d.task_id
from (
    select
        *,
        row_number() over (partition by platform, act, scenario order by started_at desc) as place
    from drills
    where platform = any(%(platforms)s) and ended_at is not null
) as d
where d.place <= %(most)s
order by d.platform, d.act desc, d.scenario, d.started_at desc
