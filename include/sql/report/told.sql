-- Who was told about what this run changed, and whether it arrived; and what about open findings is still on its way.
--
-- Returns   one row per message, with the channel's last answer
-- Params    platform, dag_id, run_id, since, most
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0001

select
    o.id,
    o.key,
    o.channel,
    o.event,
    o.severity,
    o.state,
    o.attempts,
    o.created_at,
    o.delivered_at,
    coalesce(
        (select d.answer from deliveries as d where d.outbox_id = o.id order by d.id desc limit 1), ''
    ) as answer,
    count(*) over () as total
from outbox as o
where
    o.platform = %(platform)s
    and (
        (
            o.created_at >= %(since)s
            and o.key in (
                select e.key from finding_events as e where e.dag_id = %(dag_id)s and e.run_id = %(run_id)s
            )
        )
        or (
            o.state <> 'delivered'
            and exists (select from findings as f where f.key = o.key and f.state = 'open')
        )
    )
order by o.id
limit %(most)s
