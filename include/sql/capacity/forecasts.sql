-- The newest forecast of each series of some platforms.
--
-- Returns   one row per series, as capacity_forecasts has it
-- Params    platforms (array), since
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0009

select distinct on (platform, metric, object)
    platform,
    metric,
    object,
    dag_id,
    run_id,
    made_at,
    last_day,
    points,
    value,
    most,
    state,
    said,
    method,
    error,
    horizon,
    p10_days,
    p50_days,
    p90_days,
    path,
    shifts
from capacity_forecasts
where platform = any(%(platforms)s) and made_at >= %(since)s
order by platform, metric, object, made_at desc
