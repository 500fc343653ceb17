-- The last backups of one platform, of all kinds, kept or deleted.
--
-- Returns   one row per backup, the newest first
-- Params    platform, most
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0007

select
    b.id,
    b.kind,
    b.started_at,
    b.finished_at,
    b.bytes,
    b.source_bytes,
    b.bytes_state,
    b.content_state,
    b.content_at,
    coalesce(nullif(b.content_reason, ''), b.bytes_reason) as reason,
    b.pinned_until,
    b.legal_hold,
    b.marked_at,
    b.deleted_at,
    b.dag_id,
    b.run_id
from backups as b
where b.platform = %(platform)s
order by b.finished_at desc, b.id
limit %(most)s
