-- What the health checks measured within the last day, as one number per series.
--
-- Returns   one row per metric and object: p95, mean, looks
-- Params    platform, metrics (array), since, until
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0001

select
    metric,
    object,
    percentile_disc(0.95) within group (order by value) as p95,
    avg(value) as mean,
    count(*) as looks
from samples
where
    platform = %(platform)s and metric = any(%(metrics)s) and at > %(since)s and at <= %(until)s
    and value between -1e300 and 1e300
group by metric, object
