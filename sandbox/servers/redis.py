"""Redis: one server a platform, with a password, a memory limit and sample keys."""

from __future__ import annotations

import json
import random
import secrets
from pathlib import Path

import redis

from sandbox import binaries, processes
from sandbox.faults import fault
from sandbox.home import Home, SandboxError
from sandbox.servers.held import hold, release

PORTS = {"redis.studyspot": 26379, "redis.adaptive_learning": 26380}
MAXMEMORY = 64 * 1024**2

FILLER = "sandbox:filler:"
"""Keys of the fault that fills the memory."""


def start_studyspot_redis(home: Home) -> None:
    _start(home, "redis.studyspot")


def start_adaptive_learning_redis(home: Home) -> None:
    _start(home, "redis.adaptive_learning")


def client(home: Home, name: str) -> redis.Redis:
    """The sandbox's own connection, which works whatever has become of the published password."""
    facts = home.facts(name)
    return redis.Redis(
        port=facts["port"],
        username="sandbox",
        password=facts["own_password"],
        socket_timeout=5,
        decode_responses=True,
    )


def _start(home: Home, name: str) -> None:
    if not processes.running(home, name):
        port = home.port(name, PORTS.get(name))
        known = home.facts(name)
        password = known.get("password") or secrets.token_urlsafe(18)
        own = known.get("own_password") or secrets.token_urlsafe(18)
        directory = home.directory(name)
        home.remember(name, port=port, password=password, own_password=own)
        conf = directory / "redis.conf"
        # In a file, because anybody may read the arguments of a process.
        conf.touch(mode=0o600)
        conf.write_text(
            f"bind 127.0.0.1\nport {port}\nrequirepass {password}\nuser sandbox on >{own} ~* &* +@all\n"
            f"maxmemory {MAXMEMORY}\nmaxmemory-policy noeviction\n"
            # A save point, however rare, makes Redis save when it is told to stop.
            "save 3600 1\n"
        )
        processes.start(home, name, [binaries.redis_server(), conf], cwd=directory, ready=lambda: _answers(home, name))
    _load(client(home, name), name.rpartition(".")[2])
    _publish(home, name)


def _answers(home: Home, name: str) -> bool:
    try:
        return bool(client(home, name).ping())
    except redis.ConnectionError:
        return False


def _publish(home: Home, name: str) -> None:
    facts = home.facts(name)
    home.connect(
        f"{name.rpartition('.')[2]}_redis",
        {
            "conn_type": "redis",
            "host": "127.0.0.1",
            "port": facts["port"],
            "password": facts["password"],
            "extra": {"db": 0},
        },
    )


def _load(connection: redis.Redis, platform: str) -> None:
    """Caches that may be cleared, sessions and queues that never may; the same keys each time."""
    if connection.exists("queue:mail"):
        return
    dice = random.Random(platform)
    pipeline = connection.pipeline(transaction=True)
    for number in range(2000):
        pipeline.set(f"cache:page:{number}", dice.randbytes(dice.randrange(100, 1500)).hex(), ex=7 * 86400)
    for _ in range(500):
        session = {"user": str(dice.randrange(20000)), "csrf": dice.randbytes(16).hex(), "locale": "en"}
        pipeline.hset(f"session:{dice.randbytes(12).hex()}", mapping=session)
    for queue in ("mail", "push", "exports"):
        jobs = [json.dumps({"id": dice.randbytes(8).hex(), "try": 0}) for _ in range(dice.randrange(5, 60))]
        pipeline.rpush(f"queue:{queue}", *jobs)
    pipeline.execute()


# -- faults --------------------------------------------------------------------------------------------

_NAME = "redis.studyspot"


def _wrong_password(home: Home) -> None:
    # The server's changes and the published one does not, as when somebody rotates half of a secret.
    client(home, _NAME).config_set("requirepass", secrets.token_urlsafe(18))


def _right_password(home: Home) -> None:
    client(home, _NAME).config_set("requirepass", home.facts(_NAME)["password"])


def _fill(home: Home) -> None:
    connection = client(home, _NAME)
    value = "x" * 16_000
    while (missing := int(0.95 * MAXMEMORY) - int(connection.info("memory")["used_memory"])) > len(value):
        pipeline = connection.pipeline(transaction=False)
        for _ in range(max(1, missing // 20_000)):
            pipeline.set(FILLER + secrets.token_hex(8), value)
        pipeline.execute()


def _empty(home: Home) -> None:
    connection = client(home, _NAME)
    for key in list(connection.scan_iter(match=f"{FILLER}*", count=1000)):
        connection.delete(key)


def _miss(home: Home) -> None:
    if "misses" not in home.facts(_NAME):
        home.remember(_NAME, misses=client(home, _NAME).info("stats")["keyspace_misses"])
    hold(home, "misses", _NAME)


def _hit(home: Home) -> None:
    release(home, "misses", _NAME)
    before = home.facts(_NAME).get("misses")
    if before is None:
        return
    connection = client(home, _NAME)
    missed = int(connection.info("stats")["keyspace_misses"]) - int(before)
    # Counters cannot be turned back without resetting all of them, so the share is put right by hits.
    pipeline = connection.pipeline(transaction=False)
    for _ in range(19 * max(0, missed)):
        pipeline.exists("queue:mail")
    pipeline.execute()
    with home.change() as state:
        state["facts"][_NAME].pop("misses", None)


def _crowd(home: Home) -> None:
    if "maxclients" not in home.facts(_NAME):
        home.remember(_NAME, maxclients=client(home, _NAME).config_get("maxclients")["maxclients"])
    client(home, _NAME).config_set("maxclients", 100)
    hold(home, "clients", _NAME)


def _disperse(home: Home) -> None:
    release(home, "clients", _NAME)
    before = home.facts(_NAME).get("maxclients")
    if before is None:
        return
    connection = client(home, _NAME)
    connection.config_set("maxclients", before)
    # One that has gone is still counted for a moment.
    processes.wait_until(lambda: connection.info("clients")["connected_clients"] < 50, 10, "the clients to go")
    with home.change() as state:
        state["facts"][_NAME].pop("maxclients", None)


def _block_snapshots(home: Home) -> None:
    """A directory where the file should be: not even root can write it."""
    file, kept = _snapshot(home)
    if file.is_file():
        file.rename(kept)
    file.mkdir(exist_ok=True)
    _save(home, "err")


def _allow_snapshots(home: Home) -> None:
    file, kept = _snapshot(home)
    if file.is_dir():
        file.rmdir()
    if kept.exists():
        kept.rename(file)
    if processes.running(home, _NAME):
        _save(home, "ok")


def _snapshot(home: Home) -> tuple[Path, Path]:
    file = home.directory(_NAME) / "dump.rdb"
    return file, file.with_name("dump.rdb.kept")


def _save(home: Home, expected: str) -> None:
    connection = client(home, _NAME)

    def idle() -> bool:
        return not connection.info("persistence")["rdb_bgsave_in_progress"]

    processes.wait_until(idle, 20, "an earlier snapshot")
    connection.bgsave()
    processes.wait_until(idle, 20, "the snapshot")
    if (status := connection.info("persistence")["rdb_last_bgsave_status"]) != expected:
        raise SandboxError(f"the snapshot of {_NAME} ended with {status!r}; its log says why")


fault(
    "studyspot_redis_down",
    "StudySpot's Redis is stopped",
    break_=lambda home: processes.stop(home, _NAME),
    heal=start_studyspot_redis,
)
fault(
    "studyspot_redis_wrong_password",
    "StudySpot's Redis refuses the published password",
    break_=_wrong_password,
    heal=_right_password,
)
fault(
    "studyspot_redis_memory_full",
    "StudySpot's Redis uses 95 % of maxmemory and evicts nothing",
    break_=_fill,
    heal=_empty,
)
fault(
    "studyspot_redis_clients",
    "95 of the 100 clients that StudySpot's Redis lets in are connected",
    break_=_crowd,
    heal=_disperse,
)
fault(
    "studyspot_redis_snapshot_fails",
    "StudySpot's Redis cannot write its snapshot, and takes no more writes",
    break_=_block_snapshots,
    heal=_allow_snapshots,
)
fault("studyspot_redis_misses", "most reads of StudySpot's Redis find nothing", break_=_miss, heal=_hit)
