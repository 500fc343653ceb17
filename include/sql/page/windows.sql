-- What became of the windows of some Dags.
--
-- Returns   one row per Dag and window that had a run: its newest run; whether another run did (part of) its work;
--           whether a task is at work; the tasks that went wrong and whose work nobody has done since, with the reason
--           of one; those that went wrong and were made up for
-- Params    dag_ids in an array, since
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0006

with last_tries as (
    -- The time first: most windows have one of their own, and names take longer to compare.
    select distinct on (c.due_at, c.dag_id, c.task_id, c.map_index)
        c.dag_id,
        c.due_at,
        c.task_id,
        c.run_id,
        c.state,
        c.reason,
        c.began_at,
        c.ended_at,
        c.state in ('failed', 'abandoned', 'working') as wrong,
        c.state in ('failed', 'abandoned', 'working') and exists (
            select from claims as later
            where
                later.dag_id = c.dag_id and later.task_id = c.task_id
                and later.state = 'done' and later.began_at > c.began_at
        ) as made_up
    from claims as c
    where c.dag_id = any(%(dag_ids)s) and c.due_at >= %(since)s
    order by c.due_at, c.dag_id, c.task_id, c.map_index, c.id desc
)

select
    t.dag_id,
    t.due_at,
    max(t.run_id) as run_id,
    bool_or(t.state = 'covered') as covered,
    bool_or(t.state = 'working') as working,
    max(t.reason) filter (where t.state = 'covered') as covered_reason,
    coalesce(array_agg(distinct t.task_id) filter (where t.wrong and not t.made_up), '{}') as undone,
    max(t.reason) filter (where t.wrong and not t.made_up) as undone_reason,
    coalesce(array_agg(distinct t.task_id) filter (where t.wrong and t.made_up), '{}') as made_up,
    min(t.began_at) as began_at,
    max(t.ended_at) as ended_at
from last_tries as t
group by t.due_at, t.dag_id
order by t.due_at, t.dag_id
