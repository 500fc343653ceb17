-- Tables that need VACUUM or ANALYZE, each with the score by which PostgreSQL 19 orders autovacuum's work.
--
-- A score is a ratio to autovacuum's own threshold: 1 is where autovacuum would begin. Per relation the largest of
-- five parts counts: dead rows, inserted rows, changed rows (ANALYZE), age in transactions, age in multixacts; near
-- wraparound the last two grow without bound. Storage parameters of a table are honoured, and a table's TOAST
-- relation counts for it, because VACUUM does both. A table on which autovacuum is switched off needs us the more.
--
-- Beyond what autovacuum looks at: a large table whose changed rows exceed the square root of 1000 times its rows (as
-- Ola Hallengren does for SQL Server), a table whose statistics are missing, and the parents of partitions, which
-- autovacuum never analyzes: for them the rows changed in all partitions since their own last ANALYZE count.
--
-- Returns   one row per table in need: schema, name, kind, arm (freeze, vacuum or analyze), score and its parts, what
--           the statistics say, bytes that VACUUM, freezing and ANALYZE would have to read, its large indexes, and
--           whether this role may VACUUM it; tables where a VACUUM or ANALYZE is at work now are left out; neediest
--           first, freeze before all
-- Params    least_score  from this score on
--           due_from     from this score on it is due now; below it, for a forecast, the arm is the one it is on the
--                        way to
--           freeze_from  from this share of autovacuum_freeze_max_age on a table is frozen, whatever its score
--           schema, name one table only; null for all
--           most_tables  at most this many rows
-- Locks     none beyond a normal read
-- Needs     PostgreSQL 13 or newer; pg_monitor to see what other sessions vacuum now

with recursive guc as (
    select
        current_setting('autovacuum_vacuum_threshold')::float8               as vacuum_threshold,
        current_setting('autovacuum_vacuum_scale_factor')::float8            as vacuum_scale_factor,
        -- PostgreSQL 18 and newer; -1 is no limit.
        coalesce(current_setting('autovacuum_vacuum_max_threshold', true)::float8, -1) as vacuum_max_threshold,
        current_setting('autovacuum_vacuum_insert_threshold')::float8        as insert_threshold,
        current_setting('autovacuum_vacuum_insert_scale_factor')::float8     as insert_scale_factor,
        current_setting('autovacuum_analyze_threshold')::float8              as analyze_threshold,
        current_setting('autovacuum_analyze_scale_factor')::float8           as analyze_scale_factor,
        current_setting('autovacuum_freeze_max_age')::float8                 as freeze_max_age,
        current_setting('autovacuum_multixact_freeze_max_age')::float8       as multixact_freeze_max_age,
        -- PostgreSQL 14 and newer.
        coalesce(current_setting('vacuum_failsafe_age', true)::float8, 1.6e9)           as failsafe_age,
        coalesce(current_setting('vacuum_multixact_failsafe_age', true)::float8, 1.6e9) as multixact_failsafe_age,
        current_setting('server_version_num')::int                           as version,
        (select pg_has_role(d.datdba, 'usage') from pg_database as d where d.datname = current_database()) as owns_database,
        -- ANALYZE reads 300 pages per unit of the statistics target.
        300 * current_setting('default_statistics_target')::int              as sample_pages,
        null::int                                                            as relallfrozen
),

busy as (
    select relid from pg_stat_progress_vacuum where datname = current_database()
    union
    select relid from pg_stat_progress_analyze where datname = current_database()
),

-- The one table that is asked about, and what its score is made of: its TOAST relation, and what is below it.
asked as (
    select c.oid, c.reltoastrelid
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = %(schema)s and c.relname = %(name)s
    union all
    select i.inhrelid, 0::oid
    from asked
    join pg_inherits as i on i.inhparent = asked.oid
),

relations as (
    select
        c.oid,
        n.nspname                        as schema,
        c.relname                        as name,
        c.relkind,
        c.reltoastrelid,
        greatest(c.reltuples, 0)::float8 as rows,
        greatest(c.relpages, 0)          as pages,
        greatest(c.relpages - c.relallvisible, 0) as unvisited_pages,
        age(c.relfrozenxid)::float8      as xids,
        mxid_age(c.relminmxid)::float8   as mxids,
        -- The name falls through to guc.relallfrozen (null) where pg_class has no such column: before 18.
        (select relallfrozen from (select c.*) as own) as frozen_pages,
        pg_stat_get_dead_tuples(c.oid)::float8         as dead,
        pg_stat_get_ins_since_vacuum(c.oid)::float8    as inserted,
        pg_stat_get_mod_since_analyze(c.oid)::float8   as changed,
        least(guc.freeze_max_age, o.freeze_max_age)                       as freeze_max_age,
        least(guc.multixact_freeze_max_age, o.multixact_freeze_max_age)   as multixact_freeze_max_age,
        coalesce(o.vacuum_threshold, guc.vacuum_threshold)                as vacuum_threshold,
        coalesce(o.vacuum_scale_factor, guc.vacuum_scale_factor)          as vacuum_scale_factor,
        coalesce(o.vacuum_max_threshold, guc.vacuum_max_threshold)        as vacuum_max_threshold,
        coalesce(o.insert_threshold, guc.insert_threshold)                as insert_threshold,
        coalesce(o.insert_scale_factor, guc.insert_scale_factor)          as insert_scale_factor,
        coalesce(o.analyze_threshold, guc.analyze_threshold)              as analyze_threshold,
        o.analyze_threshold is null and o.analyze_scale_factor is null    as analyze_usual,
        pg_stat_get_last_analyze_time(c.oid)                              as analyzed_by_hand_at,
        pg_stat_get_last_autoanalyze_time(c.oid)                          as analyzed_by_itself_at,
        c.relkind <> 't' and c.reltuples > 0 and pg_stat_get_last_analyze_time(c.oid) is null
        and pg_stat_get_last_autoanalyze_time(c.oid) is null              as unanalyzed,
        coalesce(o.analyze_scale_factor, guc.analyze_scale_factor)        as analyze_scale_factor
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    cross join guc
    left join pg_class as main on c.relkind = 't' and main.reltoastrelid = c.oid
    -- A TOAST relation without storage parameters of its own takes those of its table.
    left join lateral (
        select
            max(option_value) filter (where option_name = 'autovacuum_freeze_max_age')::float8 as freeze_max_age,
            max(option_value) filter (where option_name = 'autovacuum_multixact_freeze_max_age')::float8
                as multixact_freeze_max_age,
            max(option_value) filter (where option_name = 'autovacuum_vacuum_threshold')::float8 as vacuum_threshold,
            max(option_value) filter (where option_name = 'autovacuum_vacuum_scale_factor')::float8
                as vacuum_scale_factor,
            max(option_value) filter (where option_name = 'autovacuum_vacuum_max_threshold')::float8
                as vacuum_max_threshold,
            max(option_value) filter (where option_name = 'autovacuum_vacuum_insert_threshold')::float8
                as insert_threshold,
            max(option_value) filter (where option_name = 'autovacuum_vacuum_insert_scale_factor')::float8
                as insert_scale_factor,
            max(option_value) filter (where option_name = 'autovacuum_analyze_threshold')::float8 as analyze_threshold,
            max(option_value) filter (where option_name = 'autovacuum_analyze_scale_factor')::float8
                as analyze_scale_factor
        from pg_options_to_table(coalesce(c.reloptions, main.reloptions))
    ) as o on coalesce(c.reloptions, main.reloptions) is not null
    where
        c.relkind in ('r', 'm', 't')
        and c.relpersistence <> 't'
        and (
            %(schema)s::text is null
            -- An array is made once; an EXISTS would be asked of every relation.
            or c.oid = any(array(
                select unnest(array[asked.oid, asked.reltoastrelid]) from asked
            ))
        )
),

parts as (
    select
        r.*,
        r.dead / greatest(
            case
                when r.vacuum_max_threshold < 0 then r.vacuum_threshold + r.vacuum_scale_factor * r.rows
                else least(r.vacuum_max_threshold, r.vacuum_threshold + r.vacuum_scale_factor * r.rows)
            end,
            1
        ) as dead_score,
        case
            when r.insert_threshold < 0 then 0
            else r.inserted / greatest(
                r.insert_threshold + r.insert_scale_factor * r.rows
                * (1 - least(coalesce(r.frozen_pages, 0)::float8 / greatest(r.pages, 1), 1)),
                1
            )
        end as insert_score,
        case
            when r.relkind = 't' then 0
            else r.changed / greatest(r.analyze_threshold + r.analyze_scale_factor * r.rows, 1)
        end as analyze_score,
        case
            when r.relkind = 't' or not r.analyze_usual then 0
            else r.changed / greatest(sqrt(1000 * r.rows), r.analyze_threshold)
        end as root_score,
        -- Statistics went missing: after pg_upgrade, or because nobody ever looked.
        case
            when r.unanalyzed and known.columns = 0
                then r.rows / greatest(r.analyze_threshold + r.analyze_scale_factor * r.rows, 1)
            else 0
        end as missing_score,
        r.xids / r.freeze_max_age as xid_share,
        r.mxids / r.multixact_freeze_max_age as mxid_share,
        case
            when r.xids >= greatest(guc.failsafe_age, guc.freeze_max_age * 1.05)
                then power(greatest(r.xids / r.freeze_max_age, 1), greatest(1, r.xids / 1e8))
            else r.xids / r.freeze_max_age
        end as xid_score,
        case
            when r.mxids >= greatest(guc.multixact_failsafe_age, guc.multixact_freeze_max_age * 1.05)
                then power(greatest(r.mxids / r.multixact_freeze_max_age, 1), greatest(1, r.mxids / 1e8))
            else r.mxids / r.multixact_freeze_max_age
        end as mxid_score,
        r.xids >= guc.failsafe_age or r.mxids >= guc.multixact_failsafe_age as failsafe
    from relations as r
    cross join guc
    -- Looked up only for the few that nobody seems to have analyzed.
    left join lateral (
        select count(*) as columns
        from pg_stats as k
        where r.unanalyzed and k.schemaname = r.schema and k.tablename = r.name
    ) as known on true
),

-- Partitioned tables with everything below them, not only their next level.
tree as (
    select i.inhparent as root, i.inhrelid as below
    from pg_inherits as i
    join pg_class as parent on parent.oid = i.inhparent
    where parent.relkind = 'p'
    union all
    select tree.root, i.inhrelid
    from tree
    join pg_inherits as i on i.inhparent = tree.below
),

parents as (
    select
        tree.root as oid,
        sum(leaf.rows)                                     as rows,
        sum(leaf.pages)                                    as pages,
        -- Before 18 its ANALYZE analyzes each partition as well.
        least(sum(leaf.pages), guc.sample_pages) + case
            when guc.version >= 180000 then 0 else sum(least(leaf.pages, guc.sample_pages))
        end as analyze_pages,
        -- A partition analyzed since has forgotten how many changes that were: its threshold at least. Before 18 the
        -- parent's own ANALYZE went on to the partitions, moments later and by hand.
        sum(
            leaf.changed + case
                when
                    leaf.analyzed_by_itself_at > seen.analyzed_at
                    or leaf.analyzed_by_hand_at > seen.analyzed_at
                    + case when guc.version >= 180000 then interval '0' else interval '10 minutes' end
                    then leaf.analyze_threshold + leaf.analyze_scale_factor * leaf.rows
                else 0
            end
        ) as changed,
        guc.analyze_threshold + guc.analyze_scale_factor * sum(leaf.rows) as threshold,
        -- Before 14 nobody wrote down when a parent was analyzed.
        seen.analyzed_at is null and not (
            guc.version < 140000 and exists (
                select from pg_stats as k where k.schemaname = n.nspname and k.tablename = c.relname and k.inherited
            )
        ) as missing
    from tree
    join pg_class as c on c.oid = tree.root
    join pg_namespace as n on n.oid = c.relnamespace
    join relations as leaf on leaf.oid = tree.below
    cross join guc
    cross join lateral (
        select greatest(pg_stat_get_last_analyze_time(tree.root), pg_stat_get_last_autoanalyze_time(tree.root))
    ) as seen (analyzed_at)
    where not exists (select from busy where busy.relid = tree.root)
    group by tree.root, seen.analyzed_at, guc.version, guc.sample_pages, guc.analyze_threshold,
        guc.analyze_scale_factor, n.nspname, c.relname
),

tables as (
    select
        t.oid,
        t.rows,
        t.pages + coalesce(toast.pages, 0)                              as pages,
        t.unvisited_pages + coalesce(toast.unvisited_pages, 0)          as vacuum_pages,
        t.pages - coalesce(t.frozen_pages, 0)
        + coalesce(toast.pages - coalesce(toast.frozen_pages, 0), 0)    as freeze_pages,
        least(t.pages, guc.sample_pages)                                as analyze_pages,
        t.dead,
        coalesce(toast.dead, 0)                                         as toast_dead,
        t.inserted,
        t.changed,
        greatest(t.xids, toast.xids)                                    as xids,
        greatest(t.mxids, toast.mxids)                                  as mxids,
        greatest(t.dead_score, toast.dead_score)                        as dead_score,
        greatest(t.insert_score, toast.insert_score)                    as insert_score,
        t.analyze_score,
        t.root_score,
        t.missing_score,
        greatest(t.xid_score, toast.xid_score)                          as xid_score,
        greatest(t.mxid_score, toast.mxid_score)                        as mxid_score,
        greatest(t.xid_share, t.mxid_share, toast.xid_share, toast.mxid_share) >= %(freeze_from)s as must_freeze,
        t.failsafe or coalesce(toast.failsafe, false)                   as failsafe
    from parts as t
    cross join guc
    left join parts as toast on toast.oid = t.reltoastrelid
    where
        t.relkind <> 't'
        and not exists (select from busy where busy.relid in (t.oid, t.reltoastrelid))
    union all
    select
        p.oid, p.rows, p.pages, 0, 0, p.analyze_pages, 0, 0, 0, p.changed, 0, 0, 0, 0,
        p.changed / greatest(p.threshold, 1),
        p.changed / greatest(sqrt(1000 * p.rows), p.threshold, 1),
        case when p.missing and p.rows > 0 then p.rows / greatest(p.threshold, 1) else 0 end,
        0, 0, false, false
    from parents as p
),

chosen as (
    select
        t.*,
        c.relname,
        c.relkind,
        c.relowner,
        c.relisshared,
        c.relnamespace,
        n.nspname,
        greatest(t.dead_score, t.insert_score) >= case
            when
                greatest(t.dead_score, t.insert_score, t.analyze_score, t.root_score, t.missing_score)
                >= %(due_from)s
                then %(due_from)s
            else %(least_score)s
        end as must_vacuum,
        greatest(
            t.dead_score, t.insert_score, t.analyze_score, t.root_score, t.missing_score, t.xid_score, t.mxid_score
        ) as score
    from tables as t
    join pg_class as c on c.oid = t.oid
    join pg_namespace as n on n.oid = c.relnamespace
    where
        (
            t.must_freeze
            or greatest(t.dead_score, t.insert_score, t.analyze_score, t.root_score, t.missing_score)
            >= %(least_score)s
        )
        -- Autovacuum keeps the catalogs; only their wraparound is worth a maintenance role's while.
        and (t.must_freeze or n.nspname not in ('pg_catalog', 'information_schema'))
        and (%(schema)s::text is null or n.nspname = %(schema)s and c.relname = %(name)s)
    order by t.must_freeze desc, score desc, n.nspname, c.relname
    limit %(most_tables)s
)

select
    t.nspname                                       as schema,
    t.relname                                       as name,
    case t.relkind when 'p' then 'partitioned table' when 'm' then 'materialized view' else 'table' end as kind,
    case when t.must_freeze then 'freeze' when t.must_vacuum then 'vacuum' else 'analyze' end as arm,
    t.score,
    t.dead_score,
    t.insert_score,
    t.analyze_score,
    t.root_score,
    t.missing_score,
    t.xid_score,
    t.mxid_score,
    t.rows::bigint                                  as rows,
    t.pages::bigint * size.page                     as bytes,
    case
        when t.must_freeze then t.freeze_pages * size.page + size.dead_index_bytes
        when t.must_vacuum
            then (t.vacuum_pages + t.analyze_pages) * size.page + size.dead_index_bytes
        else t.analyze_pages * size.page
    end::bigint                                     as work_bytes,
    size.large_indexes,
    (t.dead + t.toast_dead)::bigint                 as dead_rows,
    t.toast_dead::bigint                            as toast_dead_rows,
    t.inserted::bigint                              as inserted_rows,
    t.changed::bigint                               as changed_rows,
    t.xids::bigint                                  as transactions_unfrozen,
    t.mxids::bigint                                 as multixacts_unfrozen,
    t.failsafe,
    pg_stat_get_last_vacuum_time(t.oid)             as last_vacuum,
    pg_stat_get_last_autovacuum_time(t.oid)         as last_autovacuum,
    pg_stat_get_last_analyze_time(t.oid)            as last_analyze,
    pg_stat_get_last_autoanalyze_time(t.oid)        as last_autoanalyze,
    pg_get_userbyid(t.relowner)                     as owner,
    -- The right to maintain came with 17; before it only the owners of the table and of the database have it.
    case
        when pg_has_role(t.relowner, 'usage') or guc.owns_database and not t.relisshared then true
        when guc.version >= 170000 then has_table_privilege(t.oid, 'maintain')
        else false
    end and has_schema_privilege(t.relnamespace, 'usage') as allowed
from chosen as t
cross join guc
cross join lateral (
    select
        current_setting('block_size')::bigint as page,
        -- With dead rows VACUUM reads every index from end to end.
        case when t.dead > 0 then coalesce(sum(i.relpages), 0) * current_setting('block_size')::bigint else 0 end
        as dead_index_bytes,
        -- From this size on a worker of its own pays (min_parallel_index_scan_size is 512 kB).
        count(*) filter (where i.relpages * current_setting('block_size')::bigint >= 33554432)::int as large_indexes
    from pg_index as x
    join pg_class as i on i.oid = x.indexrelid
    where x.indrelid = t.oid
) as size
order by t.must_freeze desc, t.score desc, t.nspname, t.relname
