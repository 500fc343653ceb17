-- Tasks of one run that had nothing left to do, because another run has done their work.
--
-- Returns   one row per task, as it ended last: whose work covers it, and the sentence that says so
-- Params    dag_id, run_id
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0006

select
    last_tries.task_id,
    last_tries.covered_by,
    last_tries.reason
from (
    select distinct on (c.task_id) c.*
    from claims as c
    where c.dag_id = %(dag_id)s and c.run_id = %(run_id)s
    order by c.task_id, c.id desc
) as last_tries
where last_tries.state = 'covered'
order by last_tries.task_id
