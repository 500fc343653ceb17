-- Incidents of some platforms: those that somebody works on, and the last ones.
--
-- Returns   one row per incident, open ones first, then the newest; with the number of lines of its timeline
-- Params    platforms in an array, most
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0003

select
    i.*,
    coalesce((select max(t.number) from timeline as t where t.incident_id = i.id), 0) as lines,
    i.state in ('open', 'acknowledged', 'mitigated') as at_work,
    count(*) over () as total
from incidents as i
where i.platform = any(%(platforms)s)
order by i.state not in ('open', 'acknowledged', 'mitigated'), i.declared_at desc
limit %(most)s
