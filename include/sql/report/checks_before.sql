-- Checks that this Dag made before and did not make in this run.
--
-- Only those that look at the whole of something: a check with an object (a table that needs VACUUM) comes and goes
-- with it.
--
-- Returns   one row per check, with the time of its last look
-- Params    platform, dag_id, run_id, since, before
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0001

select
    o.check_name,
    max(o.recorded_at) as last_at
from outcomes as o
where
    o.platform = %(platform)s and o.dag_id = %(dag_id)s and o.run_id <> %(run_id)s
    and o.object = ''
    and o.recorded_at >= %(since)s and o.recorded_at < %(before)s
    and not exists (
        select from outcomes as mine
        where
            mine.dag_id = %(dag_id)s and mine.run_id = %(run_id)s
            and mine.platform = o.platform and mine.check_name = o.check_name
    )
group by o.check_name
order by o.check_name
