-- What this run found repaired and is still repaired.
--
-- Returns   one row per finding, with how long it was open
-- Params    dag_id, run_id, most
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0001

select distinct on (e.key)
    e.key,
    f.check_name,
    f.object,
    f.peak,
    e.summary,
    f.opened_at,
    e.at as resolved_at
from finding_events as e
join findings as f on f.key = e.key
where e.dag_id = %(dag_id)s and e.run_id = %(run_id)s and e.event = 'resolved' and f.state = 'resolved'
order by e.key asc, e.id desc
limit %(most)s
