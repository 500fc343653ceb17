-- What one run did, or began to do.
--
-- Returns   one row per action, in the order of their beginning; seconds is null while it is open
-- Params    dag_id, run_id, most
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0001

select
    a.id,
    a.plan_id,
    a.task_id,
    a.map_index,
    a.try_number,
    a.capability,
    a.verb,
    a.object,
    a.state,
    a.before,
    a.after,
    a.reason,
    a.started_at,
    a.ended_at,
    extract(epoch from a.ended_at - a.started_at)::double precision as seconds,
    coalesce(p.dry_run, false) as dry_run,
    p.digest,
    count(*) over () as total
from actions as a
left join plans as p on p.id = a.plan_id
where a.dag_id = %(dag_id)s and a.run_id = %(run_id)s
-- When there are too many to show, what went wrong is shown first.
order by a.state = 'done', a.started_at, a.id
limit %(most)s
