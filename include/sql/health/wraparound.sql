-- How near each database is to running out of transaction ids.
--
-- Both counters end at 2^31; PostgreSQL stops taking writes a few million before.
--
-- Returns   one row per database: database, xid_age, mxid_age (both in ids)
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 10 or newer; any role

select
    datname::text                    as database,
    age(datfrozenxid)                as xid_age,
    mxid_age(datminmxid)             as mxid_age
from pg_database
order by greatest(age(datfrozenxid), mxid_age(datminmxid)) desc, datname asc
