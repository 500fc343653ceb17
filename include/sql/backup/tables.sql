-- The tables whose rows a dump holds, and how their rows can be digested.
--
-- A row is hashed as it is (`record`) when the hash of each of its types is the same in every database of this major
-- version. Enum and reg… types hash their oid, which a restore changes; json, xml and points have no hash; text of a
-- nondeterministic collation hashes what the collation library of the machine says. Those are hashed as text.
--
-- Returns   one row per table: schema_name, name, method (record or text), bytes
-- Params    none
-- Locks     none beyond a normal read
-- Needs     PostgreSQL 13 or newer; any role

with recursive resolved as (
    select
        a.attrelid,
        a.atttypid as type_oid,
        coalesce(c.collisdeterministic, true) as deterministic
    from pg_attribute as a
    left join pg_collation as c on c.oid = a.attcollation
    where a.attnum > 0 and not a.attisdropped
    union
    select
        r.attrelid,
        case when t.typtype = 'd' then t.typbasetype else t.typelem end,
        r.deterministic
    from resolved as r
    join pg_type as t on t.oid = r.type_oid
    where t.typtype = 'd' or (t.typcategory = 'A' and t.typelem <> 0 and t.typlen = -1)
),

as_text as (
    select distinct r.attrelid
    from resolved as r
    join pg_type as t on t.oid = r.type_oid
    where
        not r.deterministic
        or (
            t.typtype <> 'd'
            and not (t.typcategory = 'A' and t.typelem <> 0 and t.typlen = -1)
            and not (
                t.typnamespace = 'pg_catalog'::regnamespace
                and t.typname = any(array[
                    'bool', 'int2', 'int4', 'int8', 'float4', 'float8', 'numeric', 'text', 'varchar', 'bpchar', 'name',
                    'char', 'uuid', 'date', 'time', 'timetz', 'timestamp', 'timestamptz', 'interval', 'bytea', 'inet',
                    'cidr', 'macaddr', 'macaddr8', 'jsonb', 'pg_lsn'
                ]::name[])
            )
        )
)

select
    n.nspname::text as schema_name,
    c.relname::text as name,
    case
        when current_setting('server_version_num')::int >= 140000 and x.attrelid is null then 'record'
        else 'text'
    end as method,
    -- Not pg_table_size: that would wait for whoever changes the table.
    c.relpages::bigint * current_setting('block_size')::bigint as bytes
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
left join as_text as x on x.attrelid = c.oid
where
    c.relkind = 'r'
    and c.relpersistence <> 't'
    and n.nspname <> 'information_schema'
    and n.nspname !~ '^pg_'
    -- Their extension fills them again.
    and not exists (
        select from pg_depend as d
        where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
    )
order by bytes desc, schema_name, name
