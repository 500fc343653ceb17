-- Other runs whose finished work covers a window: it began when the window was already due.
--
-- Returns   one row per run, the newest first; `carried` of `needed` is how much of what it chose has been carried out
-- Params    dag_id, run_id, task_id, due
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0006

select
    c.run_id,
    c.began_at,
    c.ended_at,
    c.carried_by,
    c.items * cardinality(c.carried_by) as needed,
    (
        select count(*) from (
            select distinct on (f.task_id, f.map_index) f.state
            from claims as f
            where
                f.dag_id = c.dag_id and f.run_id = c.run_id and f.task_id = any(c.carried_by)
                and f.began_at >= c.began_at
            order by f.task_id, f.map_index, f.id desc
        ) as last_tries
        where last_tries.state in ('done', 'skipped')
    ) as carried
from claims as c
where
    c.dag_id = %(dag_id)s and c.task_id = %(task_id)s and c.run_id <> %(run_id)s
    and c.state = 'done' and c.covers and c.began_at >= %(due)s
order by c.began_at desc
limit 20
