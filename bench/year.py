"""
A ledger after a year of looking after many platforms, as SQL: what the page reads, in the numbers that runs leave.

Per platform and year: a daily run and a backup each night, weekly and monthly runs (about 9,000 claims), 8,760 other
runs, 1,100 backups, 300 findings of which 8 are open, 24 incidents with a timeline, 8,000 outcomes of the log's rounds.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import yaml

from upkeep.ledger.migrate import migrate


def names(count: int) -> list[str]:
    return [f"shop_{number:02d}" for number in range(1, count + 1)]


def platform_files(directory: Path, count: int) -> None:
    """As many platforms, each with its own timetable, backups of four kinds, and a promise."""
    for number, name in enumerate(names(count)):
        daily, nightly = f"{number % 60} 2 * * *", f"{number % 60} 1 * * *"
        content: dict[str, Any] = {
            "name": name,
            "title": f"Shop {number + 1:02d}",
            "severity": {
                "levels": {f"P{rank}": {"name": f"P{rank}", "respond": "15m", "resolve": "2h"} for rank in range(4)},
            },
            "windows": {"daily": {"start": daily}, "backup": {"start": nightly}},
            "postgres": {},
            "backup": {
                "bucket": "kept",
                "database": {},
                "cluster": {},
                "files": {"bucket": "living"},
                "configuration": {"kubernetes": False, "paths": ["/etc/shop"]},
            },
            "recovery": {"rto": "2h", "rpo": "24h"},
        }
        (directory / f"{name}.yaml").write_text(yaml.safe_dump(content))


def fill(conninfo: str, count: int, *, days: int = 365, now: datetime | None = None) -> None:
    """Tables of a new database, and the year in them."""
    migrate(conninfo)
    at = (now or datetime.now(UTC)).replace(second=0, microsecond=0)
    asked = {"names": names(count), "days": days, "now": at, "midnight": at.replace(hour=0, minute=0)}
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("set timezone = 'UTC'")
        for statement in STATEMENTS:
            connection.execute(statement, asked)  # type: ignore[call-overload]
        connection.execute("vacuum analyze")


# One night in fifty has a task that failed and was made up for by the next night, one in ninety never ran; one run in
# eighty covers the night before as well.
CLAIMS = """
insert into claims
    (platform, dag_id, run_id, task_id, due_at, state, covers, covered_by, reason, began_at, ended_at)
select
    p.name, p.name || c.suffix, 'scheduled__' || to_char(d.due, 'YYYY-MM-DD"T"HH24:MI:SS+00:00'), t.task, d.due,
    case
        when (d.number * 7 + p.number) %% 50 = 3 and t.task = c.tasks[3] then 'failed'
        when (d.number * 5 + p.number) %% 80 = 4 and t.task = c.tasks[2] then 'covered'
        else 'done'
    end,
    true,
    case when (d.number * 5 + p.number) %% 80 = 4 and t.task = c.tasks[2] then 'scheduled__later' end,
    case
        when (d.number * 7 + p.number) %% 50 = 3 and t.task = c.tasks[3] then 'OperationalError: connection refused'
        when (d.number * 5 + p.number) %% 80 = 4 and t.task = c.tasks[2] then
            'covered by scheduled__later, which did this work, after this window was due'
        else ''
    end,
    d.due + interval '20 s', d.due + interval '4 min'
from (select name, ordinality::int as number from unnest(%(names)s::text[]) with ordinality as u(name)) as p
cross join (values
    ('_daily_maintenance', 1, interval '2 h',
        array['health', 'logs', 'vacuum', 'choose_tables', 'finish_vacuum', 'cleanup', 'report', 'watcher']),
    ('_backup', 1, interval '1 h',
        array['database', 'files', 'configuration', 'cluster', 'freshness', 'retention', 'expire', 'report']),
    ('_weekly_maintenance', 7, interval '3 h', array['health', 'statistics', 'settings', 'restore', 'report']),
    ('_monthly_maintenance', 30, interval '4 h', array['health', 'reindex', 'retention', 'settings', 'report'])
) as c(suffix, every, hour, tasks)
cross join lateral (
    select number, due from (
        select n as number, case c.every
            when 1 then %(midnight)s::timestamptz - make_interval(days => n) + c.hour
                + make_interval(mins => (p.number - 1) %% 60)
            when 7 then date_trunc('week', %(midnight)s::timestamptz) - interval '1 day'
                - make_interval(days => 7 * n) + c.hour
            else date_trunc('month', %(midnight)s::timestamptz) - make_interval(months => n) + c.hour
        end as due
        from generate_series(0, %(days)s / c.every) as n
    ) as all_of_them
    where due <= %(now)s and (number * 11 + p.number) %% 90 <> 5
) as d
cross join lateral unnest(c.tasks) as t(task)
order by d.due
"""

RUNS = """
insert into runs (dag_id, run_id, platform, first_seen_at, report_url)
select distinct on (dag_id, run_id) dag_id, run_id, platform, began_at, 'https://airflow.example/upkeep/reports/'
from claims order by dag_id, run_id, began_at
"""

# The watch runs every five minutes; one in twelve is kept here, for the page reads only the newest.
WATCHES = """
insert into runs (dag_id, run_id, platform, first_seen_at)
select p.name || '_health_watch', 'scheduled__' || n, p.name, %(now)s::timestamptz - make_interval(hours => n)
from unnest(%(names)s::text[]) as p(name), generate_series(0, %(days)s * 24) as n
"""

OUTCOMES = """
insert into outcomes
    (platform, dag_id, run_id, task_id, check_name, object, state, severity, started_at, evidence, recorded_at)
select
    p.name, p.name || '_cluster_log', 'scheduled__' || n, 'log', 'backup_log', 'log', 'ok', 'P1', s.at,
    repeat('0', 64), s.at
from unnest(%(names)s::text[]) as p(name), generate_series(0, %(days)s * 22) as n,
    lateral (select %(now)s::timestamptz - make_interval(hours => n, mins => 3) as at) as s
order by s.at
"""

BACKUPS = """
insert into backups
    (platform, id, kind, engine, bucket, prefix, started_at, finished_at, bytes, source_bytes, manifest_sha256, dag_id,
    run_id, bytes_state, bytes_at, content_state, content_at, content_reason, deleted_at)
select
    p.name, k.kind || '-' || to_char(s.at, 'YYYYMMDD'), k.kind, 'ours', 'kept', k.kind || '/', s.at,
    s.at + interval '11 min', 3e9::bigint + (2e6 * (%(days)s - n))::bigint, 9e9::bigint, repeat('a', 64),
    p.name || '_backup', 'scheduled__' || n, 'verified', s.at + interval '30 min',
    case when k.kind = 'files' then 'unchecked' when (n + p.number) %% 97 = 3 then 'broken' else 'verified' end,
    s.at + interval '50 min', case when (n + p.number) %% 97 = 3 then 'table public.orders: 3 rows differ' else '' end,
    case when n > 40 then s.at + interval '40 days' end
from (select name, ordinality::int as number from unnest(%(names)s::text[]) with ordinality as u(name)) as p,
    (values ('database'), ('cluster'), ('configuration'), ('files')) as k(kind),
    generate_series(0, %(days)s) as n,
    lateral (select %(midnight)s::timestamptz - make_interval(days => n) + interval '1 h' as at) as s
where s.at < %(now)s and (k.kind <> 'database' or p.number %% 11 <> 4 or n > 2)
"""

FINDINGS = """
insert into findings
    (key, platform, check_name, object, kind, state, severity, peak, summary, hint, looks, opened_at, last_seen_at,
    resolved_at)
select
    p.name || '/' || c.check_name || '/public.t' || n, p.name, c.check_name, 'public.t' || n,
    case when n %% 40 = 7 then 'unknown' else 'finding' end,
    case when n < 8 and p.number %% 3 = 0 then 'open' else 'resolved' end,
    'P' || (1 + (n + p.number) %% 4), 'P' || (1 + (n + p.number) %% 4),
    'public.t' || n || ' has 412,000 dead rows (31 %%), the last VACUUM is 9 days old',
    'look for a transaction that holds it back, then run VACUUM by hand.', 4 + n,
    s.at, s.at + interval '9 h',
    case when n < 8 and p.number %% 3 = 0 then null else s.at + interval '9 h' end
from (select name, ordinality::int as number from unnest(%(names)s::text[]) with ordinality as u(name)) as p,
    generate_series(0, 299) as n,
    lateral (select (array['vacuum_needed', 'http', 'redis_memory', 'disk'])[1 + n %% 4] as check_name) as c,
    lateral (select %(now)s::timestamptz - make_interval(hours => 10 + n * 29) as at) as s
"""

WAIVERS = """
insert into waivers (platform, key, severity, summary, owner, reason, starts_at, until)
select platform, key, severity, summary, 'jo', 'the table is archived on Friday, then it is empty', %(now)s, s.until
from (select *, row_number() over (partition by platform order by key) as n from findings where state = 'open') as f,
    lateral (select %(now)s::timestamptz + interval '12 days' as until) as s
where n <= 2
"""

INCIDENTS = """
insert into incidents
    (id, platform, key, severity, state, title, declared_at, acknowledged_at, mitigated_at, resolved_at, closed_at)
select
    replace(p.name, '_', '-') || '-' || (24 - n), p.name, 'orders ' || n, 'P' || (n %% 3),
    case when n = 0 and p.number %% 17 = 9 then 'acknowledged' else 'closed' end, 'Orders time out',
    s.at, s.at + interval '4 min',
    case when n = 0 and p.number %% 17 = 9 then null else s.at + interval '21 min' end,
    case when n = 0 and p.number %% 17 = 9 then null else s.at + interval '48 min' end,
    case when n = 0 and p.number %% 17 = 9 then null else s.at + interval '3 days' end
from (select name, ordinality::int as number from unnest(%(names)s::text[]) with ordinality as u(name)) as p,
    generate_series(0, 23) as n,
    lateral (select %(now)s::timestamptz - make_interval(mins => 50, days => 15 * n) as at) as s
"""

TIMELINE = """
insert into timeline (incident_id, number, at, actor, kind, said, hash)
select i.id, n, i.declared_at + make_interval(mins => n), 'upkeep', 'note', 'looked again', repeat('0', 64)
from incidents as i, generate_series(1, 20) as n
"""

STATEMENTS = (CLAIMS, RUNS, WATCHES, OUTCOMES, BACKUPS, FINDINGS, WAIVERS, INCIDENTS, TIMELINE)
