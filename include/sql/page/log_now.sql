-- Until when the log of each whole cluster lies in the bucket: the last round that fetched it and found no gap.
--
-- Returns   one row per platform that fetches its log, with the state of the last round and the last good one
-- Params    platforms  names, in an array
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0001

select
    p.platform,
    last_round.state,
    last_round.started_at as last_at,
    good.started_at as good_at
from unnest(%(platforms)s::text[]) as p(platform)
cross join lateral (
    select
        o.state,
        o.started_at
    from outcomes as o
    where o.platform = p.platform and o.check_name = 'backup_log' and o.object = 'log'
    order by o.recorded_at desc limit 1
) as last_round
left join lateral (
    select o.started_at from outcomes as o
    where o.platform = p.platform and o.check_name = 'backup_log' and o.object = 'log' and o.state = 'ok'
    order by o.recorded_at desc limit 1
) as good on true
