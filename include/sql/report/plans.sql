-- What one run meant to do, written down before it did anything.
--
-- Returns   one row per plan; at most 200 of its items
-- Params    dag_id, run_id, most
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0001

select
    p.id,
    p.task_id,
    p.capability,
    p.digest,
    p.dry_run,
    p.created_at,
    jsonb_array_length(p.items) as items_total,
    jsonb_path_query_array(p.items, '$[0 to 199]') as items,
    (select count(*) from actions as a where a.plan_id = p.id) as actions_begun,
    count(*) over () as total
from plans as p
where p.dag_id = %(dag_id)s and p.run_id = %(run_id)s
order by p.created_at, p.id
limit %(most)s
