-- Since when each Dag serves windows; before that nothing can have been missed.
--
-- Returns   dag_id and the first window it served, for those that have served one
-- Params    dag_ids  in an array
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0006

select
    d.dag_id,
    served.due_at
from unnest(%(dag_ids)s::text[]) as d(dag_id)
cross join lateral (
    select c.due_at from claims as c
    where c.dag_id = d.dag_id and c.due_at is not null
    order by c.due_at limit 1
) as served
