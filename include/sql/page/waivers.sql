-- Waivers of some platforms that still run, also of findings that are over.
--
-- Returns   one row per waiver, the first to end first
-- Params    platforms in an array, most
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0008

select
    w.id,
    w.platform,
    w.key,
    w.severity,
    w.summary,
    w.owner,
    w.reason,
    w.starts_at,
    w.until
from waivers as w
where
    w.platform = any(%(platforms)s)
    and w.starts_at <= clock_timestamp() and w.until > clock_timestamp()
order by w.until, w.id
limit %(most)s
