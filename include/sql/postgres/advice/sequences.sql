-- How near each sequence is to its end: its own, or that of the column it fills, whichever comes first.
--
-- A serial or an identity of type integer ends at 2,147,483,647 although its sequence may go on. A sequence that
-- cycles has no end; one that was never asked has not begun.
--
-- Returns   one row per sequence: oid, schema, name, column (schema.table.column that it fills, or null), type (of
--           the column), last, limit_value, used (share), increment, may_read (false: last is hidden from this role)
-- Params    none
-- Locks     ROW EXCLUSIVE on each sequence, as nextval() takes
-- Needs     PostgreSQL 10 or newer; SELECT on sequences (pg_read_all_data)

with filled as (
    -- A serial's sequence belongs to its column, an identity's is part of it; a default may use any sequence.
    select
        d.objid as sequence,
        d.refobjid as relation,
        d.refobjsubid as attnum
    from pg_depend as d
    where
        d.classid = 'pg_class'::regclass
        and d.refclassid = 'pg_class'::regclass
        and d.refobjsubid > 0
        and d.deptype in ('a', 'i')
    union
    select
        d.refobjid,
        x.adrelid,
        x.adnum
    from pg_attrdef as x
    join pg_depend as d on d.classid = 'pg_attrdef'::regclass and d.objid = x.oid and d.refclassid = 'pg_class'::regclass
    where d.deptype = 'n'
),

narrowest as (
    select distinct on (f.sequence)
        f.sequence,
        concat_ws('.', quote_ident(n.nspname), quote_ident(t.relname), quote_ident(a.attname)) as "column",
        a.atttypid::regtype::text as type,
        case a.atttypid when 'int2'::regtype then 32767 when 'int4'::regtype then 2147483647 end::numeric as most
    from filled as f
    join pg_attribute as a on a.attrelid = f.relation and a.attnum = f.attnum and not a.attisdropped
    join pg_class as t on t.oid = a.attrelid
    join pg_namespace as n on n.oid = t.relnamespace
    order by f.sequence, most nulls last
),

ends as (
    select
        s.seqrelid,
        s.seqincrement as increment,
        case
            when s.seqincrement > 0 then least(s.seqmax, narrowest.most)
            else greatest(s.seqmin, -narrowest.most - 1)
        end::numeric as limit_value,
        case when s.seqincrement > 0 then s.seqmin else s.seqmax end::numeric as first_value,
        narrowest."column",
        narrowest.type
    from pg_sequence as s
    left join narrowest on narrowest.sequence = s.seqrelid
    where not s.seqcycle
)

select
    c.oid::bigint as oid,
    n.nspname as schema,
    c.relname as name,
    e."column",
    e.type,
    v.last,
    e.limit_value,
    ((v.last - e.first_value) / nullif(e.limit_value - e.first_value, 0))::float8 as used,
    e.increment::float8 as increment,
    has_sequence_privilege(c.oid, 'select, usage') as may_read
from ends as e
join pg_class as c on c.oid = e.seqrelid
join pg_namespace as n on n.oid = c.relnamespace
cross join lateral (
    select case when has_sequence_privilege(c.oid, 'select, usage') then pg_sequence_last_value(c.oid)::numeric end as last
) as v
where c.relpersistence <> 't' and has_schema_privilege(n.oid, 'usage')
order by used desc nulls last, n.nspname, c.relname
