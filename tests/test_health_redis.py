"""Redis: every check sees its fault in a real server, with the numbers, and sees it gone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis as Client

from sandbox import binaries, processes
from sandbox.faults import break_it, heal_it
from sandbox.home import Home
from sandbox.servers import redis as servers
from upkeep.findings import Finding, Outcome, Severity
from upkeep.health import redis
from upkeep.platforms.services import Redis

STUDYSPOT = Redis()
NAME = "redis.studyspot"


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    home = Home(Path(tempfile.mkdtemp(prefix="uph-", dir="/tmp")))
    try:
        servers.start_studyspot_redis(home)
        yield home
    finally:
        for name in (*home.state().get("processes", {}),):
            processes.stop(home, name)
        shutil.rmtree(home.path, ignore_errors=True)


@pytest.fixture
def bare(home: Home) -> Iterator[tuple[dict[str, Any], Client]]:
    """An empty Redis with nothing set, and the arguments for it."""
    directory = home.directory("redis.bare")
    port = home.port("redis.bare")

    def answers() -> bool:
        return processes.listening(port)

    argv = [binaries.redis_server(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory]
    processes.start(home, "redis.bare", argv, ready=answers)
    with Client(port=port, decode_responses=True) as client:
        yield {"host": "127.0.0.1", "port": port}, client
    processes.stop(home, "redis.bare", sig=signal.SIGKILL)


def arguments(home: Home) -> dict[str, Any]:
    """As ``upkeep.connections.redis_arguments`` makes them of the published connection."""
    published = home.state()["connections"]["studyspot_redis"]
    return {"host": published["host"], "port": published["port"], "password": published["password"], "db": 0}


Seen = tuple[dict[str, Outcome], dict[str, float]]


def look(
    to: Mapping[str, Any], previous: Mapping[str, float] | None = None, section: Redis = STUDYSPOT, **options: Any
) -> Seen:
    outcomes, counters = redis.look(section, to, previous=previous or {}, **options)
    for outcome in outcomes:
        json.dumps(dict(outcome.facts))
    return {outcome.check: outcome for outcome in outcomes}, counters


def only(outcome: Outcome) -> Finding:
    assert len(outcome.findings) == 1, outcome
    return outcome.findings[0]


def assert_well(home: Home) -> None:
    for check, outcome in look(arguments(home))[0].items():
        assert outcome.state == "ok", (check, outcome)


def assert_explained(seen: dict[str, Outcome]) -> None:
    for check, outcome in seen.items():
        if check != "redis_connect":
            assert (outcome.state, outcome.explained_by) == ("unknown", "redis_connect")


@contextmanager
def broken(home: Home, fault: str) -> Iterator[None]:
    break_it(home, fault)
    try:
        yield
    finally:
        heal_it(home, fault)


def test_a_healthy_server_is_ok_with_its_numbers(home: Home) -> None:
    seen, counters = look(arguments(home))
    assert list(seen) == ["redis_connect", "redis_memory", "redis_hit_rate", "redis_persistence", "redis_clients"]
    assert_well(home)
    assert seen["redis_connect"].facts["version"].startswith("6.2")
    assert seen["redis_memory"].facts["max_bytes"] == 64 * 1024**2
    assert 0 < seen["redis_memory"].facts["share"] < 0.5
    assert set(counters) == {"redis_run", "redis_hits", "redis_misses", "redis_evicted", "redis_rejected"}


# -- connecting ----------------------------------------------------------------------------------------


def test_a_stopped_server_is_one_finding_and_the_rest_is_explained_by_it(home: Home) -> None:
    with broken(home, "studyspot_redis_down"):
        seen, counters = look(arguments(home))
        finding = only(seen["redis_connect"])
        assert "refused" in finding.summary
        assert finding.severity == Severity.P0
        assert_explained(seen)
        assert counters == {}
    assert_well(home)


def test_a_wrong_password_is_found_at_once_and_names_the_connection(home: Home) -> None:
    with broken(home, "studyspot_redis_wrong_password"):
        began = time.monotonic()
        seen, _ = look(arguments(home), conn_id="studyspot_redis")
        assert time.monotonic() - began < 0.4, "a second try could lock the account"
        finding = only(seen["redis_connect"])
        assert "invalid username-password pair" in finding.summary
        assert "`studyspot_redis`" in finding.hint
        assert_explained(seen)
    assert_well(home)


def test_no_password_at_all_is_found_although_redis_cli_would_call_it_a_success(home: Home) -> None:
    seen, _ = look({**arguments(home), "password": None})
    assert "Authentication required" in only(seen["redis_connect"]).summary


def test_a_frozen_server_is_bounded(home: Home) -> None:
    pid = processes.running(home, NAME)
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        seen, _ = look(arguments(home), timeout_s=0.5)
        assert time.monotonic() - began < 2.5
    finally:
        os.kill(pid, signal.SIGCONT)
    finding = only(seen["redis_connect"])
    assert "imeout" in finding.summary
    assert "does not answer" in finding.hint
    assert_well(home)


def test_a_user_who_may_not_ask_is_unknown_and_says_what_to_allow(home: Home) -> None:
    with servers.client(home, NAME) as client:
        client.acl_setuser("shy", enabled=True, passwords=["+x"], commands=["+ping"])
    seen, _ = look({**arguments(home), "username": "shy", "password": "x"})
    assert {outcome.state for outcome in seen.values()} == {"unknown"}
    assert "allow the user +ping and +info" in seen["redis_memory"].reason


def test_a_replica_behind_the_masters_name_is_found(home: Home, bare: tuple[dict[str, Any], Client]) -> None:
    to, client = bare
    client.replicaof("127.0.0.1", 1)
    finding = only(look(to)[0]["redis_connect"])
    assert "is a replica (role slave, link down)" in finding.summary
    assert finding.severity == Severity.P0
    client.replicaof("NO", "ONE")
    assert look(to)[0]["redis_connect"].state == "ok"


# -- memory --------------------------------------------------------------------------------------------


def test_memory_that_runs_full_is_found(home: Home) -> None:
    with broken(home, "studyspot_redis_memory_full"):
        finding = only(look(arguments(home))[0]["redis_memory"])
        assert finding.summary.startswith("61 of 64 MiB in use (95%); when it is full, writes will be refused")
        assert finding.severity == Severity.P1
    assert_well(home)


def test_a_server_without_a_limit_is_a_p3_finding_and_heals(bare: tuple[dict[str, Any], Client]) -> None:
    to, client = bare
    finding = only(look(to)[0]["redis_memory"])
    assert finding.summary.startswith("no maxmemory is set (1 MiB in use)")
    assert (finding.object, finding.severity) == ("limit", Severity.P3)
    client.config_set("maxmemory", "16mb")
    assert look(to)[0]["redis_memory"].state == "ok"


def test_evictions_are_those_since_the_last_look(bare: tuple[dict[str, Any], Client]) -> None:
    to, client = bare
    client.config_set("maxmemory", "4mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    _, before = look(to)
    for number in range(600):
        client.set(f"cache:{number}", "x" * 10_000)
    seen, after = look(to, before)
    evictions = {finding.object: finding for finding in seen["redis_memory"].findings}["evictions"]
    assert evictions.summary == f"{after['redis_evicted']:,.0f} keys evicted since the last look (allkeys-lru)"
    assert after["redis_evicted"] > 100
    again, _ = look(to, after)
    assert [finding.object for finding in again["redis_memory"].findings] == [""], "nothing was evicted since"


# -- hit rate ------------------------------------------------------------------------------------------


def read(client: Client, hits: int, misses: int) -> None:
    client.set("cache:there", "x")
    pipeline = client.pipeline(transaction=False)
    for _ in range(hits):
        pipeline.get("cache:there")
    for _ in range(misses):
        pipeline.get("cache:nothing")
    pipeline.execute()


def test_the_hit_rate_is_that_since_the_last_look(bare: tuple[dict[str, Any], Client]) -> None:
    to, client = bare
    read(client, 0, 5000)
    _, before = look(to)
    read(client, 900, 100)
    seen, after = look(to, before)
    assert seen["redis_hit_rate"].state == "ok"
    assert seen["redis_hit_rate"].facts == {"hits": 900, "reads": 1000, "rate": 0.9}
    read(client, 300, 700)
    finding = only(look(to, after)[0]["redis_hit_rate"])
    assert finding.summary == "30% of 1,000 reads since the last look were hits (300); 80% is the least"
    assert finding.severity == Severity.P3


def test_misses_are_found_and_heal(home: Home) -> None:
    _, before = look(arguments(home))
    with broken(home, "studyspot_redis_misses"):
        seen, _ = look(arguments(home), before)
        assert only(seen["redis_hit_rate"]).facts["rate"] < 0.1
    assert look(arguments(home), before)[0]["redis_hit_rate"].state == "ok"


def test_few_reads_and_the_first_look_say_nothing(bare: tuple[dict[str, Any], Client]) -> None:
    to, client = bare
    seen, before = look(to)
    assert seen["redis_hit_rate"].facts["note"] == "no data: this is the first look"
    read(client, 0, 99)
    seen, _ = look(to, before)
    assert seen["redis_hit_rate"].state == "ok"
    assert seen["redis_hit_rate"].facts["note"].startswith("no data: 99 reads since the last look")
    nothing = Redis(least_reads=0)
    assert look(to, look(to)[1], nothing)[0]["redis_hit_rate"].facts["reads"] == 0


def test_counters_that_began_anew_count_from_there(home: Home, bare: tuple[dict[str, Any], Client]) -> None:
    """After a restart they may be higher than before, after CONFIG RESETSTAT they are lower: both are noticed."""
    to, client = bare
    read(client, 100, 100)
    _, before = look(to)
    client.config_resetstat()
    read(client, 90, 60)
    seen, after = look(to, before)
    assert seen["redis_hit_rate"].facts == {"hits": 90, "reads": 150, "rate": 0.6}
    # Another start: its run id is another one, its counters are not lower.
    read(client, 110, 140)
    seen, _ = look(to, {**after, "redis_run": after["redis_run"] + 1})
    assert seen["redis_hit_rate"].facts["reads"] == 400


# -- the rest ------------------------------------------------------------------------------------------


def test_a_snapshot_that_fails_is_found_and_heals(home: Home, bare: tuple[dict[str, Any], Client]) -> None:
    to, client = bare
    client.set("a", 1)
    # A directory where the file should be: not even root can write it.
    blocker = home.directory("redis.bare/dump.rdb")

    def save() -> str:
        client.bgsave()
        processes.wait_until(lambda: not client.info("persistence")["rdb_bgsave_in_progress"], 5, "the snapshot")
        return str(client.info("persistence")["rdb_last_bgsave_status"])

    assert save() == "err"
    finding = only(look(to)[0]["redis_persistence"])
    assert (finding.object, finding.severity) == ("snapshot", Severity.P2)
    assert finding.summary.startswith("the last snapshot (BGSAVE) failed; 1 changes")
    blocker.rmdir()
    assert save() == "ok"
    assert look(to)[0]["redis_persistence"].state == "ok"


def test_a_server_that_takes_no_writes_because_it_cannot_save_is_reached_all_the_same(home: Home) -> None:
    """With a save point Redis refuses every write then, and PING with them."""
    with broken(home, "studyspot_redis_snapshot_fails"):
        seen, _ = look(arguments(home))
        finding = only(seen["redis_persistence"])
        assert (finding.object, finding.severity) == ("snapshot", Severity.P0)
        assert finding.summary.endswith("; until one succeeds it refuses every write")
        assert seen["redis_connect"].state == seen["redis_clients"].state == "ok"
    assert_well(home)


def test_clients_near_the_limit_and_refused_ones_are_found(bare: tuple[dict[str, Any], Client]) -> None:
    to, client = bare

    def alone() -> None:
        """A client that has gone is still counted for a moment."""
        processes.wait_until(lambda: client.info("clients")["connected_clients"] == 1, 10, "the clients to go")

    client.config_set("maxclients", 10)
    _, before = look(to)
    alone()
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(Client(**to)).ping()
        assert only(look(to, before)[0]["redis_clients"]).summary == (
            "10 of 10 clients connected, 0 refused since the last look"
        )
        processes.wait_until(lambda: client.info("clients")["connected_clients"] == 9, 10, "the look to be over")
        stack.enter_context(Client(**to)).ping()
        seen, _ = look(to)
        assert "max number of clients reached" in only(seen["redis_connect"]).summary
        assert only(seen["redis_connect"]).hint.startswith("end idle clients")
    alone()
    seen, after = look(to, before)
    assert only(seen["redis_clients"]).summary == "2 of 10 clients connected, 2 refused since the last look"
    alone()
    assert look(to, after)[0]["redis_clients"].state == "ok"
