-- How many findings are open, by severity.
--
-- Returns   one row per platform, severity and kind (a finding, or what could not be looked at), waived or not
-- Params    platforms  names, in an array
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0008

select
    f.platform,
    f.severity,
    f.kind,
    w.key is not null as waived,
    count(*) as number
from findings as f
left join waived as w on w.key = f.key
where f.platform = any(%(platforms)s) and f.state = 'open'
group by f.platform, f.severity, f.kind, w.key is not null
order by f.platform, f.severity, f.kind, w.key is not null
