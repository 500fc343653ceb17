-- All daily samples of a platform, a row per series.
--
-- Returns   one row per series: metric, object, days, values and limits (arrays, the oldest day first; a limit may be
--           null)
-- Params    platform, since
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0009

select
    metric,
    object,
    array_agg(day order by day) as days,
    array_agg(value order by day) as values,
    array_agg(most order by day) as limits
from capacity_samples
where platform = %(platform)s and day >= %(since)s
group by metric, object
order by metric, object
