-- One Dag run as the ledger saw it.
--
-- Returns   at most one row: when the ledger first heard of the run, and the last trace it left
-- Params    dag_id, run_id
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0001

select
    r.platform,
    r.first_seen_at,
    greatest(
        r.first_seen_at,
        (select max(o.recorded_at) from outcomes as o where o.dag_id = r.dag_id and o.run_id = r.run_id),
        (
            select max(coalesce(a.ended_at, a.started_at)) from actions as a
            where a.dag_id = r.dag_id and a.run_id = r.run_id
        )
    ) as last_trace_at
from runs as r
where r.dag_id = %(dag_id)s and r.run_id = %(run_id)s
