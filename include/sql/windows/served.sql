-- The windows of one Dag that were served, and what is left of them.
--
-- Returns   due_at, and the tasks whose last try went wrong and whose work nobody has done since
-- Params    dag_id, since
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0006

with last_tries as (
    select distinct on (c.due_at, c.task_id, c.map_index) c.*
    from claims as c
    where c.dag_id = %(dag_id)s and c.due_at >= %(since)s
    order by c.due_at, c.task_id, c.map_index, c.id desc
)

select
    t.due_at,
    coalesce(
        array_agg(distinct t.task_id) filter (
            where t.state in ('failed', 'abandoned', 'working') and not exists (
                select from claims as later
                where
                    later.dag_id = t.dag_id and later.task_id = t.task_id
                    and later.state = 'done' and later.began_at > t.began_at
            )
        ),
        '{}'
    ) as undone
from last_tries as t
group by t.due_at
order by t.due_at
