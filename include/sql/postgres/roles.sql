-- The two roles with which Upkeep looks after a database, and its own schema.
--
--   upkeep        maintenance: looks, vacuums, analyses, reindexes; reads every table, writes none of the application's
--   upkeep_owner  acts as the owner of the application's tables: drops leftovers of indexes, deletes by retention rule
--
-- Neither is a superuser. Run it again whenever you like, and after a new version of PostgreSQL; it changes only
-- what is missing. Run it in the application's database, as a superuser:
--
--   PGOPTIONS='-c upkeep.tables_owner=app_owner' psql -X -v ON_ERROR_STOP=1 -d studyspot -f include/sql/postgres/roles.sql
--   psql -d studyspot -c '\password upkeep' -c '\password upkeep_owner'
--
-- Returns   nothing
-- Settings  upkeep.tables_owner  the role that owns the application's tables
--           upkeep.physical      on: the maintenance role may also copy the whole cluster and its log, for base backups
--                                (backup.cluster); it then reads everything there is, hashes of passwords included, and
--                                pg_hba.conf must let it in: host replication upkeep <workers>/32 scram-sha-256
--           upkeep.restores      on: upkeep_owner may also make databases, rename those of the tables' owner, and end
--                                sessions in them: what `backup.database.restore` of the platform file takes
--           upkeep.drills        on: for drills of a failover (recovery.drill.failover: streaming): the maintenance role may
--                                promote a standby and rewind a lost primary, which reads every file of the server
-- Locks     none that the application would notice
-- Needs     PostgreSQL 14 or newer; superuser (on a managed server: its administrator, extensions allowed)
--
-- Before PostgreSQL 17 there is no right to maintain other people's tables: VACUUM, ANALYZE and REINDEX ask for
-- their owner. There the maintenance role becomes a member of the owner too, which lets it write.

do $$
declare
    tables_owner text := nullif(current_setting('upkeep.tables_owner', true), '');
    extension text;
    checker regprocedure;
    page_stats text;
begin
    if tables_owner is null or to_regrole(quote_ident(tables_owner)) is null then
        raise exception 'upkeep.tables_owner is %: no such role', coalesce(quote_literal(tables_owner), 'not set')
            using hint = 'Name the role that owns the tables: PGOPTIONS=''-c upkeep.tables_owner=app_owner'' psql …';
    end if;

    if to_regrole('upkeep') is null then
        create role upkeep login;
    end if;
    if to_regrole('upkeep_owner') is null then
        create role upkeep_owner login;
    end if;

    if coalesce(nullif(current_setting('upkeep.physical', true), ''), 'off')::bool then
        alter role upkeep replication;
    end if;

    -- Sessions of maintenance end by themselves when their worker has vanished.
    alter role upkeep set client_connection_check_interval = '10s';
    alter role upkeep_owner set client_connection_check_interval = '10s';

    execute format('grant connect on database %I to upkeep, upkeep_owner', current_database());
    grant pg_monitor, pg_read_all_data to upkeep;
    execute format('grant %I to upkeep_owner', tables_owner);
    if current_setting('server_version_num')::int >= 170000 then
        grant pg_maintain to upkeep;
    else
        execute format('grant %I to upkeep', tables_owner);
    end if;

    -- What the configuration files say and the server does not do: mistakes, and what waits for a restart.
    grant select on pg_catalog.pg_file_settings to upkeep;
    grant execute on function pg_catalog.pg_show_all_file_settings() to upkeep;

    foreach extension in array array['pg_stat_statements', 'amcheck', 'pgstattuple', 'pageinspect'] loop
        if exists (select from pg_available_extensions as available where available.name = extension) then
            execute format('create extension if not exists %I', extension);
        end if;
    end loop;

    -- amcheck gives its functions to nobody; they read and take the locks of a read.
    for checker in
        select depend.objid::regprocedure
        from pg_depend as depend
        join pg_extension as owning on owning.oid = depend.refobjid and depend.refclassid = 'pg_extension'::regclass
        where owning.extname = 'amcheck' and depend.classid = 'pg_proc'::regclass and depend.deptype = 'e'
    loop
        execute format('grant execute on function %s to upkeep', checker);
    end loop;

    -- Restoring makes a database, and swaps names when nobody is in them.
    if coalesce(nullif(current_setting('upkeep.restores', true), ''), 'off')::boolean then
        alter role upkeep_owner createdb;
        grant pg_signal_backend to upkeep_owner;
    end if;

    -- Failover is rehearsed by promoting a standby and making the old primary one.
    if coalesce(nullif(current_setting('upkeep.drills', true), ''), 'off')::boolean then
        alter role upkeep replication;
        grant execute on function pg_promote(boolean, integer) to upkeep;
        grant execute on function pg_ls_dir(text, boolean, boolean) to upkeep;
        grant execute on function pg_stat_file(text, boolean) to upkeep;
        grant execute on function pg_read_binary_file(text) to upkeep;
        grant execute on function pg_read_binary_file(text, bigint, bigint, boolean) to upkeep;
        if current_setting('server_version_num')::int >= 150000 then
            grant pg_checkpoint to upkeep;
        end if;
    end if;

    if to_regnamespace('upkeep') is null then
        create schema upkeep authorization upkeep_owner;
    end if;
    grant usage on schema upkeep to upkeep;

    -- Where a probe writes, reads back and deletes a row: a server that only answers is not yet one that works.
    if to_regclass('upkeep.canary') is null then
        create table upkeep.canary (
            id int primary key,
            beat timestamptz not null,
            run text not null
        );
        alter table upkeep.canary owner to upkeep_owner;
        comment on table upkeep.canary is 'Rows that Upkeep''s write probe leaves for a moment.';
    end if;
    grant select, insert, update, delete on upkeep.canary to upkeep;

    -- A row every 100 ms while a failover is rehearsed: what is missing of it afterwards was lost.
    if coalesce(nullif(current_setting('upkeep.drills', true), ''), 'off')::boolean then
        create table if not exists upkeep.drill_canary (
            drill bigint,
            number int,
            at timestamptz not null,
            primary key (drill, number)
        );
        alter table upkeep.drill_canary owner to upkeep_owner;
        comment on table upkeep.drill_canary is 'Rows that Upkeep writes while it rehearses a failover, and removes.';
        grant select, insert, delete on upkeep.drill_canary to upkeep;
    end if;

    -- How far each deletion by retention rule has come, written in the transaction that deletes.
    if to_regclass('upkeep.retention') is null then
        create table upkeep.retention (
            relation text primary key,
            plan text not null,
            cut_off timestamptz not null,
            pass int not null default 1,
            after_key text,
            after_tid tid,
            again_key text,
            batches bigint not null default 0,
            segments int not null default 0,
            deleted bigint not null default 0,
            archive text,
            place bigint not null default 0,
            kept bigint[] not null default '{}',
            item jsonb,
            updated_at timestamptz not null default clock_timestamp()
        );
        alter table upkeep.retention owner to upkeep_owner;
        comment on table upkeep.retention is 'How far each deletion by retention rule has come.';
    end if;
    grant select on upkeep.retention to upkeep;

    -- What was deleted, without content, until the ledger has it too.
    if to_regclass('upkeep.deletions') is null then
        create table upkeep.deletions (
            id uuid primary key default gen_random_uuid(),
            relation text not null,
            plan text not null,
            cut_off timestamptz not null,
            key_column text not null,
            condition text not null,
            from_key text not null,
            to_key text not null,
            rows bigint not null,
            ids numeric,
            archive text,
            deleted_at timestamptz not null default clock_timestamp()
        );
        alter table upkeep.deletions owner to upkeep_owner;
        comment on table upkeep.deletions is 'Deletions, without content, that are not yet in Upkeep''s ledger.';
    end if;
    grant select on upkeep.deletions to upkeep;

    -- How much of an index is air is read off a few hundred of its pages. Reading pages is for superusers alone, so
    -- this function does it for the maintenance role: it counts bytes and shows nothing of what is in them.
    select format('%I.bt_page_stats($3, b.block::%s)', n.nspname, p.proargtypes[1]::regtype)
    into page_stats
    from pg_extension as e
    join pg_depend as d on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid and d.deptype = 'e'
    join pg_proc as p on d.classid = 'pg_proc'::regclass and p.oid = d.objid and p.proname = 'bt_page_stats'
    join pg_namespace as n on n.oid = p.pronamespace
    where e.extname = 'pageinspect';
    if page_stats is not null then
        execute format(
            $sampler$
            create or replace function upkeep.sample_index_pages(
                index regclass,
                most int,
                out pages bigint, out leaves bigint, out empty bigint, out usable_bytes bigint, out free_bytes bigint
            )
            language plpgsql
            security definer
            set search_path = pg_catalog, pg_temp
            as $body$
            declare
                strata int;
            begin
                select pg_relation_size(c.oid) / current_setting('block_size')::int - 1
                into pages
                from pg_class as c
                join pg_am as a on a.oid = c.relam
                where c.oid = index and c.relkind = 'i' and a.amname = 'btree';
                if pages is null then
                    raise exception '%% is not a B-tree index', index using errcode = 'wrong_object_type';
                end if;
                -- One page at random out of each of as many equal strata; page 0 tells about the index itself.
                strata := least(greatest(most, 1), 3000, pages);
                execute $query$
                    select
                        count(*) filter (where s.type = 'l'),
                        count(*) filter (where s.type not in ('l', 'i', 'r')),
                        coalesce(sum(s.page_size - 40) filter (where s.type = 'l'), 0),
                        coalesce(sum(s.free_size) filter (where s.type = 'l'), 0)
                    from (
                        select 1 + floor((n + random()) * $1 / $2) as block
                        from generate_series(0, $2 - 1) as n
                        offset 0
                    ) as b
                    cross join lateral %s as s
                $query$
                into leaves, empty, usable_bytes, free_bytes
                using pages, strata, index::text;
            end
            $body$
            $sampler$,
            page_stats
        );
        revoke all on function upkeep.sample_index_pages(regclass, int) from public;
        grant execute on function upkeep.sample_index_pages(regclass, int) to upkeep;
    end if;
end
$$;
