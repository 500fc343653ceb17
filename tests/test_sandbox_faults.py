"""Each fault of the sandbox's PostgreSQL, Redis, S3 and backups breaks what it says, and heals without a trace."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from botocore.exceptions import EndpointConnectionError

from sandbox import __main__ as sandbox
from sandbox import processes
from sandbox.faults import break_it, heal_it
from sandbox.home import Home, SandboxError
from sandbox.servers import backup_faults, postgres
from tests.sandbox_server import (
    MINE,
    PRIMARY,
    bucket_client,
    cache,
    connect,
    new_home,
    published,
    remove,
    row,
    streaming,
)


@pytest.fixture
def empty() -> Iterator[Home]:
    home = new_home()
    yield home
    remove(home)


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    home = new_home()
    try:
        sandbox.up(home, only=MINE, scale=0.02)
        yield home
    finally:
        remove(home)


def answers(home: Home, conn_id: str = "studyspot_postgres") -> bool:
    try:
        connect(home, conn_id).close()
    except psycopg.OperationalError:
        return False
    return True


def writes(home: Home) -> bool:
    try:
        with connect(home, "studyspot_postgres") as connection:
            connection.execute("insert into upkeep.canary values (7, now(), 'test')")
            return connection.execute("delete from upkeep.canary where id = 7").rowcount == 1
    except psycopg.errors.ReadOnlySqlTransaction:
        return False


def replays(home: Home) -> bool:
    with postgres.superuser(home, PRIMARY) as connection:
        lsn = connection.execute("select pg_current_wal_lsn()::text").fetchone()
        time.sleep(0.5)
        question = "select replay_lsn >= %s::pg_lsn from pg_stat_replication"
        return connection.execute(question, lsn).fetchone() == (True,)


def nobody_is(state: str) -> Callable[[Home], bool]:
    return lambda home: row(home, f"select count(*) from pg_stat_activity where {state}") == (0,)


def sessions_left(home: Home) -> bool:
    share = row(
        home,
        "select count(*) / (current_setting('max_connections')::float - 3) from pg_stat_activity"
        " where backend_type = 'client backend'",
    )[0]
    return share < 0.9


def no_slot_retains(home: Home) -> bool:
    retained = "coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)), 0)"
    return row(home, f"select {retained} < 32 * 1024 * 1024 from pg_replication_slots where not active") == (True,)


def cache_answers(home: Home) -> bool:
    try:
        return bool(cache(home).ping())
    except redis.ConnectionError:
        return False


def cache_has_room(home: Home) -> bool:
    memory = cache(home).info("memory")
    return memory["used_memory"] / memory["maxmemory"] < 0.9


def files_answer(home: Home) -> bool:
    try:
        bucket_client(home).list_buckets()
    except EndpointConnectionError:
        return False
    return True


def cache_lets_in(home: Home) -> bool:
    clients = cache(home).info("clients")
    return clients["connected_clients"] < 0.9 * clients["maxclients"]


def cache_saves(home: Home) -> bool:
    return cache(home).info("persistence")["rdb_last_bgsave_status"] == "ok"


def dead_rows_may_go(home: Home) -> bool:
    return row(home, "select coalesce(max(age(xmin)), 0) < 1000000 from pg_replication_slots") == (True,)


def learning(query: str) -> Callable[[Home], bool]:
    def asked(home: Home) -> bool:
        with postgres.superuser(home, "postgres.adaptive_learning", "adaptive_learning") as connection:
            return connection.execute(query).fetchone() == (True,)

    return asked


def leads_to_primary(home: Home) -> bool:
    return published(home, "studyspot_postgres")["port"] == home.facts(PRIMARY)["port"]


FAULTS: dict[str, Callable[[Home], bool]] = {
    "studyspot_postgres_down": answers,
    "adaptive_learning_postgres_down": lambda home: answers(home, "adaptive_learning_postgres"),
    "studyspot_postgres_wrong_password": answers,
    "studyspot_standby_down": streaming,
    "studyspot_standby_paused": replays,
    "studyspot_idle_in_transaction": nobody_is("state = 'idle in transaction'"),
    "studyspot_blocked_query": nobody_is("cardinality(pg_blocking_pids(pid)) > 0"),
    "studyspot_connections_full": sessions_left,
    "studyspot_inactive_slot": no_slot_retains,
    "studyspot_read_only": writes,
    "studyspot_redis_down": cache_answers,
    "studyspot_redis_wrong_password": cache_answers,
    "studyspot_redis_memory_full": cache_has_room,
    "studyspot_redis_clients": cache_lets_in,
    "studyspot_redis_snapshot_fails": cache_saves,
    "studyspot_connection_to_standby": leads_to_primary,
    "adaptive_learning_vacuum_forbidden": learning("select pg_has_role('upkeep', 'pg_maintain', 'usage')"),
    "adaptive_learning_statistics_hidden": learning(
        "select has_function_privilege('upkeep', 'pg_stat_get_dead_tuples(oid)', 'execute')"
    ),
    "s3_down": files_answer,
}
"""Fault → what must be so when healthy and not so when broken."""


SLOW: dict[str, Callable[[Home], bool]] = {
    "studyspot_old_snapshot": dead_rows_may_go,
    "adaptive_learning_transaction_ids": learning("select max(age(datfrozenxid)) < 100000000 from pg_database"),
    "adaptive_learning_archive_fails": learning("select failed_count = 0 from pg_stat_archiver"),
}
"""The same, for faults that take a server's restart or a million transactions."""


@pytest.mark.parametrize("fault", [*FAULTS, *(pytest.param(name, marks=pytest.mark.soak) for name in SLOW)])
def test_a_fault_breaks_what_it_says_and_healing_restores_it(fault: str, home: Home) -> None:
    healthy = {**FAULTS, **SLOW}[fault]
    keys = cache(home).dbsize()
    rows = row(home, "select count(*) from users")
    assert healthy(home)
    for _ in ("break", "again"):
        break_it(home, fault)
        assert not healthy(home)
    assert home.state()["broken"] == [fault]
    for _ in ("heal", "again"):
        heal_it(home, fault)
        assert healthy(home)
    assert home.state()["broken"] == []
    assert not [name for name in home.state()["processes"] if name.startswith("hold.")]
    assert cache(home).dbsize() == keys
    assert row(home, "select count(*) from users") == rows
    processes.wait_until(lambda: streaming(home), 10, "the standby")


def test_misses_lower_the_hit_rate_and_healing_raises_it(home: Home) -> None:
    def rate(before: dict) -> float:
        now = cache(home).info("stats")
        hits, misses = (now[f"keyspace_{what}"] - before[f"keyspace_{what}"] for what in ("hits", "misses"))
        return hits / (hits + misses)

    start = cache(home).info("stats")
    break_it(home, "studyspot_redis_misses")
    break_it(home, "studyspot_redis_misses")
    assert rate(start) < 0.1
    heal_it(home, "studyspot_redis_misses")
    assert rate(start) > 0.9
    heal_it(home, "studyspot_redis_misses")


def test_a_fault_of_a_server_that_does_not_run_says_what_to_start(empty: Home) -> None:
    with pytest.raises(SandboxError, match=r"postgres.studyspot does not run\nHINT: .* --only postgres.studyspot"):
        break_it(empty, "studyspot_read_only")


# -- backups, workers, hosts ---------------------------------------------------------------------------


def trees(home: Home) -> dict[str, bytes]:
    """Every file of the bucket and of the hosts."""
    files = [file for name in ("s3", "hosts") for file in home.directory(name).rglob("*") if file.is_file()]
    return {str(file.relative_to(home.path)): file.read_bytes() for file in files}


def backup(home: Home, kind: str) -> Path:
    id = "20261122T010000Z-0123abcd"
    place = home.directory(f"s3/studyspot-backups/{kind}/{id}")
    (place / "archive").write_bytes(b"rows" * 100)
    objects = [{"role": "archive", "key": f"{kind}/{id}/archive", "bytes": 400, "sha256": "0" * 64}]
    times = {"started": "2026-11-22T01:00:00Z", "finished": "2026-11-22T01:05:00.5Z"}
    (place / "manifest.json").write_text(json.dumps({"id": id, **times, "objects": objects}))
    return place


def test_faults_of_backups_and_hosts_heal_without_a_trace(empty: Home) -> None:
    with pytest.raises(SandboxError, match="HINT: run its Dag studyspot_backup first"):
        break_it(empty, "studyspot_backup_small")
    lost, small = backup(empty, "configuration"), backup(empty, "database")
    (empty.directory("hosts/tmp") / "studyspot-1.tmp").write_text("left over")
    before = trees(empty)
    for _ in ("break", "again"):
        for fault in ("studyspot_backups_lost", "studyspot_backup_small", "hosts_tmp_missing"):
            break_it(empty, fault)
        assert not lost.exists()
        assert not (empty.path / "hosts" / "tmp").exists()
        earlier = [place for place in small.parent.iterdir() if place != small]
        assert len(earlier) == backup_faults.NIGHTS
        for place in earlier:
            manifest = json.loads((place / "manifest.json").read_text())
            (archive,) = manifest["objects"]
            assert manifest["id"] == place.name < small.name
            assert (archive["key"], archive["bytes"]) == (f"database/{place.name}/archive", 1200)
            assert (place / "archive").stat().st_size == 1200
    for _ in ("heal", "again"):
        for fault in ("studyspot_backups_lost", "studyspot_backup_small", "hosts_tmp_missing"):
            heal_it(empty, fault)
        assert trees(empty) == before


def test_workers_lose_a_client_and_get_it_back(empty: Home) -> None:
    def programs() -> list[str]:
        return json.loads((empty.path / "upkeep.yaml").read_text())["postgres_programs"]

    for version in (17, 18):
        empty.remember(f"postgres.{version}", bin=f"/{version}/bin", version=version)
    break_it(empty, "adaptive_learning_old_client")
    assert programs() == ["/17/bin"]
    heal_it(empty, "adaptive_learning_old_client")
    assert programs() == ["/17/bin", "/18/bin"]
