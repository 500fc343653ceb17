-- Tables that somebody named but that are not there.
--
-- Returns   one row per missing table: name, as it was asked for
-- Params    names  array of ``table`` or ``schema.table``, without quotes
-- Locks     none
-- Needs     PostgreSQL 10 or newer; any role with USAGE on the schemas

select wanted.name
from unnest(%(names)s::text[]) as wanted (name)
where
    to_regclass(
        (
            select string_agg(quote_ident(part), '.' order by place)
            from unnest(string_to_array(wanted.name, '.')) with ordinality as parts (part, place)
        )
    ) is null
order by wanted.name
