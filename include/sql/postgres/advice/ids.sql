-- Transaction ids: how many there have been, and the tables that hold on to the oldest.
--
-- Returns   one row: transactions (ever), limit_age, freeze_max_age, database_age, oldest (JSON array of table, age)
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 13 or newer; any role

select
    pg_snapshot_xmax(pg_current_snapshot())::text::float8 as transactions,
    2147483648::float8 as limit_age,
    current_setting('autovacuum_freeze_max_age')::float8 as freeze_max_age,
    (select age(d.datfrozenxid) from pg_database as d where d.datname = current_database())::float8 as database_age,
    (
        select coalesce(json_agg(json_build_object('table', t.name, 'transactions_unfrozen', t.age) order by t.age desc), '[]')
        from (
            select
                c.oid::regclass::text as name,
                age(c.relfrozenxid) as age
            from pg_class as c
            where c.relkind in ('r', 'm', 't') and c.relfrozenxid <> '0'
            order by age(c.relfrozenxid) desc
            limit 5
        ) as t
    ) as oldest
