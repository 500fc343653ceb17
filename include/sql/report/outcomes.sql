-- What each check of one run saw; a check that looked again (a retry, a cleared task) counts with its last look.
--
-- Returns   one row per task, check and object, the latest, with the number of looks
-- Params    dag_id, run_id, most
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0001

select
    id,
    task_id,
    check_name,
    object,
    state,
    severity,
    reason,
    explained_by,
    findings,
    facts,
    started_at,
    seconds,
    looks,
    count(*) over () as total
from (
    select
        o.*,
        count(*) over look as looks,
        row_number() over (look order by o.id desc) as latest
    from outcomes as o
    where o.dag_id = %(dag_id)s and o.run_id = %(run_id)s
    window look as (partition by o.task_id, o.check_name, o.object)
) as looked
where latest = 1
-- When there are too many to show, what is wrong is shown first.
order by state = 'ok', task_id, check_name, object
limit %(most)s
