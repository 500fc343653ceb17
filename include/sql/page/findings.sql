-- Findings of some platforms, narrowed down as somebody asked for.
--
-- Returns   one row per finding, the worst and the oldest open ones first, with its waiver
-- Params    platforms in an array; state: open (and not waived), waived, resolved or all; worst: severity at least this
--           bad; words: an ILIKE pattern for the key or the summary, or null; key: only this one, or null; most
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0008

select
    f.key,
    f.platform,
    f.check_name,
    f.object,
    f.kind,
    f.state,
    f.severity,
    f.peak,
    f.summary,
    f.hint,
    f.looks,
    f.opened_at,
    f.last_seen_at,
    f.resolved_at,
    f.held,
    f.acknowledged_at,
    f.acknowledged_by,
    w.id as waiver,
    w.owner as waived_by,
    w.reason as waived_because,
    w.until as waived_until,
    count(*) over () as total
from findings as f
left join waived as w on w.key = f.key
where
    f.platform = any(%(platforms)s)
    and f.state <> 'suspected'
    and f.severity <= %(worst)s
    and (%(key)s::text is null or f.key = %(key)s)
    and (%(words)s::text is null or f.key ilike %(words)s or f.summary ilike %(words)s)
    and case %(state)s
        when 'open' then f.state = 'open' and w.key is null
        when 'waived' then w.key is not null
        when 'resolved' then f.state = 'resolved'
        else true
    end
order by
    f.state = 'resolved',
    case when f.state = 'open' then f.severity end,
    case when f.state = 'open' then f.opened_at end,
    f.last_seen_at desc,
    f.key
limit %(most)s
