-- Measurements of the platform over a while, thinned to at most 61 points per series.
--
-- Returns   one row per series: averages over 61 equal parts of the time it was measured in, oldest first
-- Params    platform, since, until, most
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0001

with raw as (
    select
        s.metric,
        s.object,
        s.at,
        s.value,
        min(s.at) over series as first_at,
        max(s.at) over series as last_at,
        last_value(s.value) over (
            series order by s.at rows between unbounded preceding and unbounded following
        ) as last_value
    from samples as s
    where
        s.platform = %(platform)s and s.at >= %(since)s and s.at <= %(until)s
        -- NaN and infinities have no place on a line.
        and s.value between -1e300 and 1e300
    window series as (partition by s.metric, s.object)
),
thinned as (
    select
        metric,
        object,
        first_at,
        last_at,
        last_value,
        floor(
            60 * coalesce(
                extract(epoch from at - first_at) / nullif(extract(epoch from last_at - first_at), 0), 0
            )
        ) as part,
        avg(value) as value,
        min(value) as least,
        max(value) as most,
        count(*) as samples
    from raw
    group by metric, object, first_at, last_at, last_value, part
)
select
    metric,
    object,
    first_at,
    last_at,
    last_value,
    min(least) as least,
    max(most) as most,
    sum(samples)::bigint as samples,
    array_agg(part::integer order by part) as parts,
    array_agg(value order by part) as points,
    count(*) over () as total
from thinned
group by metric, object, first_at, last_at, last_value
-- A line says more than a dot.
order by count(*) = 1, metric, object
limit %(most)s
