-- How each platform is now, as far as anybody has looked.
--
-- Returns   one row per platform: open findings and what could not be looked at (both without what is waived), the
--           worst severity of each, how many are waived, when a run last recorded anything, open incidents
-- Params    platforms  names, in an array
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0008

select
    p.platform,
    found.open_findings,
    found.blind,
    found.waived,
    found.worst,
    found.worst_blind,
    (
        select r.first_seen_at from runs as r
        where r.platform = p.platform order by r.first_seen_at desc limit 1
    ) as looked_at,
    troubled.incidents,
    troubled.worst_incident
from unnest(%(platforms)s::text[]) as p(platform)
cross join lateral (
    select
        count(*) filter (where w.key is null and f.kind = 'finding') as open_findings,
        count(*) filter (where w.key is null and f.kind = 'unknown') as blind,
        count(w.key) as waived,
        min(f.severity) filter (where w.key is null and f.kind = 'finding') as worst,
        min(f.severity) filter (where w.key is null and f.kind = 'unknown') as worst_blind
    from findings as f
    left join waived as w on w.key = f.key
    where f.platform = p.platform and f.state = 'open'
) as found
cross join lateral (
    select
        count(*) as incidents,
        min(i.severity) as worst_incident
    from incidents as i
    where
        i.platform = p.platform and not i.drill
        and i.state in ('open', 'acknowledged', 'mitigated')
) as troubled
