-- The newest report of each Dag of each platform, and how the platform is now.
--
-- Returns   one row per platform and Dag, with what is open on that platform: how many findings, how
--           many things that could not be looked at, and the worst severity
-- Params    none
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0001

select distinct on (r.platform, r.dag_id)
    r.platform,
    r.dag_id,
    r.run_id,
    r.first_seen_at,
    coalesce(f.open, 0) as open_findings,
    coalesce(f.blind, 0) as blind,
    f.worst
from runs as r
left join (
    select
        platform,
        count(*) filter (where kind = 'finding') as open,
        count(*) filter (where kind = 'unknown') as blind,
        min(severity) as worst
    from findings
    where state = 'open'
    group by platform
) as f on f.platform = r.platform
where r.report_url is not null
order by r.platform asc, r.dag_id asc, r.first_seen_at desc
limit 500
