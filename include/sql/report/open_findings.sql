-- What is wrong with the platform now, whoever found it.
--
-- Returns   one row per open finding, the worst and the oldest first
-- Params    platform, dag_id, run_id, most
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0001

select
    f.key,
    f.check_name,
    f.object,
    f.kind,
    f.severity,
    f.peak,
    f.summary,
    f.hint,
    f.facts,
    f.looks,
    f.opened_at,
    f.last_seen_at,
    exists (
        select from outcomes as o
        where
            o.dag_id = %(dag_id)s and o.run_id = %(run_id)s and o.check_name = f.check_name
            and o.state <> 'ok' and (o.object = f.object or o.object = '')
    ) as seen_by_run,
    coalesce(
        (
            select e.event from finding_events as e
            where e.key = f.key and e.dag_id = %(dag_id)s and e.run_id = %(run_id)s
            order by e.id desc limit 1
        ),
        ''
    ) as event,
    count(*) over () as total
from findings as f
where f.platform = %(platform)s and f.state = 'open'
order by f.severity, f.opened_at, f.key
limit %(most)s
