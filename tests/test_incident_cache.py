"""Clearing a cache: what may go goes, sessions, queues and other databases stay, and nobody waits for it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from redis import Redis as Client

from sandbox import binaries, processes
from sandbox.home import REPOSITORY, Home
from upkeep.errors import SettingsError
from upkeep.incident.cache import CacheError, chosen, clear

NAMES = ("redis.cache", "redis.cache_replica")


def start(home: Home, name: str, *options: str) -> int:
    port = home.port(name)
    argv = [
        binaries.redis_server(), "--port", str(port), "--bind", "127.0.0.1", "--save", "",
        "--dir", home.directory(name), *options,
    ]  # fmt: skip
    processes.start(home, name, argv, ready=lambda: processes.listening(port))
    return port


@pytest.fixture(scope="module")
def port(home: Home) -> Iterator[int]:
    yield start(home, NAMES[0], "--slowlog-log-slower-than", "50000", "--slowlog-max-len", "100")
    processes.stop(home, NAMES[0], sig=signal.SIGKILL)


@pytest.fixture
def redis(port: int) -> Iterator[Client]:
    with Client(port=port) as client:
        client.flushall()
        yield client


def to(client: Client, **more: Any) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": client.connection_pool.connection_kwargs["port"], "db": 0, **more}


OTHERS: Mapping[str, int] = {"session:": 500, "queue:": 50, "cach": 1, "cache": 1, "Cache:": 3, "not-cache:": 3}


def fill(client: Client, keys: int) -> None:
    """``keys`` of cache in two families, and what must stay."""
    client.execute_command("debug", "populate", keys // 2, "cache:user", 20)
    client.execute_command("debug", "populate", keys // 2, "cache:page", 20)
    with client.pipeline(transaction=False) as pipeline:
        for prefix, count in OTHERS.items():
            for place in range(count):
                pipeline.set(f"{prefix}{place}", "stays")
        pipeline.hset("cache:large", mapping={str(field): "x" * 100 for field in range(20_000)})
        pipeline.execute()
    with Client(port=client.connection_pool.connection_kwargs["port"], db=3) as other:
        other.set("cache:of-another-database", "stays")
    client.slowlog_reset()


def intact(client: Client) -> None:
    assert client.dbsize() == sum(OTHERS.values())
    with Client(port=client.connection_pool.connection_kwargs["port"], db=3) as other:
        assert other.dbsize() == 1


def clears(client: Client, keys: int) -> None:
    fill(client, keys)
    counted = clear(to(client), ["cache:"], dry_run=True)
    assert counted.found == {"cache:": keys + 1}
    assert counted.gone == {"cache:": 0}
    assert client.dbsize() == keys + 1 + sum(OTHERS.values()), "a dry run touches nothing"
    before = client.info("commandstats")
    done = clear(to(client), ["cache:"])
    after = client.info("commandstats")
    assert done.gone == counted.found
    assert done.stopped == ""
    intact(client)
    slowest_s = max([call["duration"] for call in client.slowlog_get()], default=0) / 1e6
    assert slowest_s - 0.0 < 0.05, "nobody waited longer for the server"
    sent = {name.removeprefix("cmdstat_") for name in after if after[name] != before.get(name)}
    assert sent <= {"scan", "unlink", "info", "dbsize", "select", "slowlog", "hello", "client"}, sent
    assert clear(to(client), ["cache:"]).gone == {"cache:": 0}


def test_a_cache_is_cleared_and_nothing_else(redis: Client) -> None:
    clears(redis, 30_000)


@pytest.mark.soak
def test_a_million_keys_and_no_command_over_fifty_milliseconds(redis: Client) -> None:
    clears(redis, 1_000_000)


def test_several_prefixes_go_in_one_pass(redis: Client) -> None:
    fill(redis, 1000)
    done = clear(to(redis), ["cache:user:", "not-cache:"])
    assert done.gone == {"cache:user:": 500, "not-cache:": 3}
    assert redis.dbsize() == 501 + sum(OTHERS.values()) - 3


@pytest.mark.soak
def test_while_the_application_writes_what_was_there_goes(redis: Client) -> None:
    fill(redis, 20_000)
    stop, written = threading.Event(), 0

    def application() -> None:
        nonlocal written
        with Client(port=redis.connection_pool.connection_kwargs["port"]) as client:
            while not stop.is_set():
                client.set(f"cache:new:{written}", "x")
                client.set(f"session:new:{written}", "x")
                written += 1

    thread = threading.Thread(target=application)
    thread.start()
    try:
        done = clear(to(redis), ["cache:"])
    finally:
        stop.set()
        thread.join()
    assert done.gone["cache:"] >= 20_001
    assert [name for name in redis.scan_iter("cache:*", count=1000) if b":new:" not in name] == []
    assert len(list(redis.scan_iter("session:new:*", count=1000))) == written > 0


def test_only_prefixes_of_the_platform_file(redis: Client) -> None:
    allowed = ("cache:", "page:")
    assert chosen([], allowed) == ["cache:", "page:"]
    assert chosen(["cache:user:", "cache:user:7", "page:"], allowed) == ["cache:user:", "page:"]
    for wrong in ("", "session:", "cach", "*", "cache", "cache*", "\ncache:"):
        with pytest.raises(SettingsError, match=r"may not be cleared[\s\S]*HINT: .*cache:, page:"):
            chosen([wrong], allowed)
    with pytest.raises(SettingsError, match=r"no prefix of the cache may be cleared[\s\S]*redis.cache_prefixes"):
        chosen([], ())


@pytest.mark.parametrize("prefix", ["cache:*", "cache:?", "cache:[a]", "cache:\\", "cache:^-"])
def test_a_prefix_is_no_pattern(redis: Client, prefix: str) -> None:
    redis.set(f"{prefix}mine", "x")
    redis.set("cache:a", "stays")
    redis.set("cache:zz", "stays")
    assert clear(to(redis), [prefix]).gone == {prefix: 1}
    assert redis.dbsize() == 2


def test_asked_to_stop_it_stops_and_says_why(redis: Client) -> None:
    fill(redis, 5000)
    asked = []

    def go() -> str:
        asked.append(1)
        return "the incident is over" if len(asked) > 3 else ""

    done = clear(to(redis), ["cache:"], go=go)
    assert done.stopped == "the incident is over"
    assert 0 < done.gone["cache:"] < 5001
    assert clear(to(redis), ["cache:"]).gone["cache:"] == 5001 - done.gone["cache:"]
    intact(redis)


KILLED = """
import json, os, signal, sys
from upkeep.incident.cache import clear
asked = []
def go():
    asked.append(1)
    if len(asked) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return ""
clear(json.loads(sys.argv[1]), ["cache:"], go=go)
"""


def test_killed_half_way_the_next_run_does_the_rest(redis: Client) -> None:
    fill(redis, 10_000)
    env = {"PYTHONPATH": str(REPOSITORY / "plugins")}
    killed = subprocess.run([sys.executable, "-c", KILLED, json.dumps(to(redis))], env=env, check=False)
    assert killed.returncode == -signal.SIGKILL
    left = redis.dbsize() - sum(OTHERS.values())
    assert 0 < left < 10_001
    assert clear(to(redis), ["cache:"]).gone == {"cache:": left}
    intact(redis)


def test_a_replica_is_refused(home: Home, redis: Client) -> None:
    redis.set("cache:1", "x")
    primary = redis.connection_pool.connection_kwargs["port"]
    port = start(home, NAMES[1], "--replicaof", "127.0.0.1", str(primary))
    try:
        with Client(port=port) as replica:
            processes.wait_until(lambda: replica.dbsize() == 1, 10, "the replica")
            with pytest.raises(CacheError, match=r"is a replica[\s\S]*HINT: point the connection at the primary"):
                clear(to(replica), ["cache:"])
    finally:
        processes.stop(home, NAMES[1], sig=signal.SIGKILL)


def test_who_may_not_is_told_what_to_allow(redis: Client) -> None:
    redis.set("cache:1", "x")
    redis.execute_command("acl setuser reader on >secret ~* +@read +info +ping")
    try:
        with pytest.raises(CacheError, match=r"HINT: allow the user \+@keyspace, \+unlink"):
            clear(to(redis, username="reader", password="secret"), ["cache:"])
    finally:
        redis.execute_command("acl deluser reader")
    assert redis.dbsize() == 1


def test_nobody_there(home: Home) -> None:
    with pytest.raises(CacheError, match=r"Redis at 127.0.0.1:\d+: ConnectionError[\s\S]*0 keys were removed"):
        clear({"host": "127.0.0.1", "port": home.port("redis.nobody"), "db": 0}, ["cache:"])


@pytest.mark.soak
def test_a_cluster_is_cleared_on_each_of_its_masters(home: Home) -> None:
    # Its nodes talk to each other 10,000 ports further up.
    name = next(name for n in range(100) if home.port(name := f"redis.cluster{n}") <= 55_535)
    port = start(home, name, "--cluster-enabled", "yes")
    try:
        with Client(port=port) as node:
            node.execute_command("cluster", "addslots", *range(16_384))
            processes.wait_until(lambda: node.cluster("info")["cluster_state"] == "ok", 10, "the cluster")
            for place in range(500):
                node.set(f"cache:{place}", "x")
                node.set(f"session:{place}", "stays")
            assert clear(to(node), ["cache:"]).gone == {"cache:": 500}
            assert node.dbsize() == 500
    finally:
        processes.stop(home, name, sig=signal.SIGKILL)
