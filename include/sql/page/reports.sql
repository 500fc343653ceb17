-- The newest report of each Dag that has written one.
--
-- Returns   one row per platform and Dag
-- Params    platforms  names, in an array
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0008

with recursive named as (
    -- From Dag to Dag through the index, not through a year of runs.
    (
        select
            p.platform,
            (
                select r.dag_id from runs as r
                where r.platform = p.platform and r.report_url is not null
                order by r.dag_id limit 1
            ) as dag_id
        from unnest(%(platforms)s::text[]) as p(platform)
    )
    union all
    select
        n.platform,
        (
            select r.dag_id from runs as r
            where r.platform = n.platform and r.report_url is not null and r.dag_id > n.dag_id
            order by r.dag_id limit 1
        )
    from named as n
    where n.dag_id is not null
)

select
    n.platform,
    n.dag_id,
    newest.run_id,
    newest.first_seen_at
from named as n
cross join lateral (
    select
        r.run_id,
        r.first_seen_at
    from runs as r
    where r.platform = n.platform and r.dag_id = n.dag_id and r.report_url is not null
    order by r.first_seen_at desc limit 1
) as newest
where n.dag_id is not null
order by newest.first_seen_at desc
