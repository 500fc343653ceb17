-- What kind of column each is that a platform file names.
--
-- Returns   one row per pair: table, column, kind (``timestamp with time zone``; null: no such table or column)
-- Params    tables   array of ``table`` or ``schema.table``, without quotes
--           columns  array as long
-- Locks     none
-- Needs     PostgreSQL 10 or newer; USAGE on the schemas

select
    wanted.table_name as table,
    wanted.column_name as "column",
    format_type(attribute.atttypid, null) as kind
from unnest(%(tables)s::text[], %(columns)s::text[]) with ordinality as wanted (table_name, column_name, place)
left join pg_attribute as attribute
    on attribute.attrelid = to_regclass(
        (
            select string_agg(quote_ident(part), '.' order by place)
            from unnest(string_to_array(wanted.table_name, '.')) with ordinality as parts (part, place)
        )
    )
    and attribute.attname = wanted.column_name
    and not attribute.attisdropped
order by wanted.place
