-- The newest report of each Dag of each platform, and how the platform is now.
--
-- Returns   one row per platform and Dag, with what is open on that platform: how many, and the worst severity
-- Params    none
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0001

select distinct on (r.platform, r.dag_id)
    r.platform,
    r.dag_id,
    r.run_id,
    r.first_seen_at,
    coalesce(f.open, 0) as open_findings,
    f.worst
from runs as r
left join (
    select
        platform,
        count(*) as open,
        min(severity) as worst
    from findings
    where state = 'open'
    group by platform
) as f on f.platform = r.platform
where r.report_url is not null
order by r.platform asc, r.dag_id asc, r.first_seen_at desc
limit 500
