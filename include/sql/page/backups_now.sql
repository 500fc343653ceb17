-- The newest backup of each kind, and the newest that was proved: restored (files: read back) and compared.
--
-- Returns   one row per platform and kind that has a backup
-- Params    platforms  names, in an array
-- Locks     none beyond a normal read
-- Needs     the ledger, revision 0007

select
    p.platform,
    k.kind,
    newest.id as newest_id,
    newest.started_at as newest_at,
    newest.bytes as newest_bytes,
    newest.bytes_state,
    newest.content_state,
    newest.content_reason,
    proved.id as proved_id,
    proved.started_at as proved_at,
    proved.content_at as proved_when
from unnest(%(platforms)s::text[]) as p(platform)
cross join (values ('database'), ('cluster'), ('files'), ('configuration')) as k(kind)
cross join lateral (
    select b.* from backups as b
    where b.platform = p.platform and b.kind = k.kind and b.deleted_at is null
    order by b.finished_at desc limit 1
) as newest
left join lateral (
    select b.* from backups as b
    where
        b.platform = p.platform and b.kind = k.kind and b.deleted_at is null
        and b.content_state = 'verified'
    order by b.finished_at desc limit 1
) as proved on true
order by p.platform, k.kind
