"""
Clearing a cache by its prefixes: SCAN and UNLINK in small batches, while the application goes on.

FLUSHDB and FLUSHALL are never sent: they take sessions, queues and locks along, and the latter every other database.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from redis.backoff import NoBackoff
from redis.client import Redis as Client
from redis.cluster import RedisCluster
from redis.exceptions import NoPermissionError, ReadOnlyError, RedisError
from redis.retry import Retry

from upkeep.errors import SettingsError, UpkeepError

TARGET_S = 0.005
"""One command takes about this long; nobody else is served meanwhile. The limit that we promise is 50 ms."""

FEWEST, FIRST, MOST = 10, 200, 5000
"""Keys that one SCAN looks at, or one UNLINK removes."""

REST = 1.0
"""Pause after each command, in times its length: at most half of the server is ours."""

TIMEOUT_S = 5.0


class CacheError(UpkeepError):
    """The cache cannot be cleared."""


@dataclass
class Cleared:
    """What was done, by prefix."""

    found: dict[str, int] = field(default_factory=dict)
    """Keys that were there."""

    gone: dict[str, int] = field(default_factory=dict)
    """Keys that were removed; 0 in a dry run."""

    seconds: float = 0.0
    slowest_s: float = 0.0
    """The longest command, its way over the network included."""

    stopped: str = ""
    """Why it ended early; the rest is still there and the next run finds it."""


def chosen(asked: Sequence[str], allowed: Sequence[str]) -> list[str]:
    """
    The prefixes that will be cleared: those asked for, or all that the platform file allows.

    :raises SettingsError: one of them is not below an allowed prefix.
    """
    if not allowed:
        raise SettingsError(
            "no prefix of the cache may be cleared",
            hint="name those that hold nothing but cache in `redis.cache_prefixes` of the platform file.",
        )
    for prefix in asked:
        if not any(prefix.startswith(one) for one in allowed):
            raise SettingsError(
                f"keys that begin with {prefix[:100]!r} may not be cleared",
                hint=f"the platform file allows {', '.join(allowed)} (`redis.cache_prefixes`).",
            )
    wanted = list(dict.fromkeys(asked or allowed))
    return [one for one in wanted if not any(one != other and one.startswith(other) for other in wanted)]


def clear(
    arguments: Mapping[str, Any],
    prefixes: Sequence[str],
    *,
    dry_run: bool = False,
    go: Callable[[], str] = lambda: "",
) -> Cleared:
    """
    Remove every key that begins with one of ``prefixes`` from the connection's database, in one pass.

    :param arguments: for ``redis.Redis``; of any node, where it is a cluster.
    :param prefixes: as ``chosen`` gives them.
    :param dry_run: count only.
    :param go: asked between commands; says why it must stop.
    :raises CacheError: it does not answer, may not be asked, or is a replica.
    """
    done = Cleared(dict.fromkeys(prefixes, 0), dict.fromkeys(prefixes, 0))
    began = time.monotonic()
    try:
        with Client(**_bounded(arguments)) as client:
            if client.info("server").get("redis_mode") == "cluster":
                own = {name: value for name, value in _bounded(arguments).items() if name not in ("db", "retry")}
                with RedisCluster(**own) as cluster:
                    for node in cluster.get_primaries():
                        _clear_node(cluster.get_redis_connection(node), prefixes, done, dry_run, go, alone=True)
            else:
                _clear_node(client, prefixes, done, dry_run, go, alone=False)
    except ReadOnlyError as replica:
        raise CacheError(
            f"{_where(arguments)} is a replica: {replica}", hint="point the connection at the primary."
        ) from replica
    except NoPermissionError as refused:
        raise CacheError(str(refused), hint="allow the user +@keyspace, +unlink and +info on these keys.") from refused
    except (RedisError, OSError) as down:
        raise CacheError(
            f"{_where(arguments)}: {type(down).__name__}: {down}; {sum(done.gone.values()):,} keys were removed",
            hint="run it again once Redis answers: it goes on with what is left.",
        ) from down
    done.seconds = round(time.monotonic() - began, 3)
    return done


def _clear_node(
    client: Client, prefixes: Sequence[str], done: Cleared, dry_run: bool, go: Callable[[], str], *, alone: bool
) -> None:
    """
    One pass over one server's keys for all prefixes together.

    :param alone: each key by itself, as keys of a cluster lie in different slots.
    """
    pace = _Pace()
    for keys in _scan(client, prefixes, done, pace):
        if done.stopped:
            return
        if reason := go():
            done.stopped = reason
            return
        for prefix, mine in keys.items():
            done.found[prefix] += len(mine)
            if dry_run:
                continue
            for few in _few(mine, pace):
                done.gone[prefix] += _timed(partial(_unlink, client, few, alone), done, pace)


def _scan(client: Client, prefixes: Sequence[str], done: Cleared, pace: _Pace) -> Iterator[dict[str, list[bytes]]]:
    """Keys in the order in which the server walks its table; one prefix lets the server choose them itself."""
    match = _glob(prefixes[0]) + b"*" if len(prefixes) == 1 else None
    encoded = {prefix: prefix.encode() for prefix in prefixes}
    cursor: int = 0
    while True:
        look = partial(client.scan, cursor, match=match, count=pace.looked_at)
        cursor, names = _timed(look, done, pace, scan=True)
        # A table that is being resized shows some keys twice.
        names = list(dict.fromkeys(names))
        yield {
            prefix: mine
            for prefix, begins in encoded.items()
            if (mine := [name for name in names if name.startswith(begins)])
        }
        if cursor == 0:
            return


def _unlink(client: Client, names: Sequence[bytes], alone: bool) -> int:
    if not alone:
        return int(client.unlink(*names))
    with client.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.unlink(name)
        return sum(pipeline.execute())


class _Pace:
    """How many keys at a time, so that a command takes about ``TARGET_S``."""

    def __init__(self) -> None:
        self.looked_at = FIRST
        self.removed = FIRST

    def took(self, seconds: float, *, scan: bool) -> None:
        factor = min(max(TARGET_S / max(seconds, 1e-6), 0.25), 1.5)
        if scan:
            self.looked_at = min(max(round(self.looked_at * factor), FEWEST), MOST)
        else:
            self.removed = min(max(round(self.removed * factor), FEWEST), MOST)


def _few(names: Sequence[bytes], pace: _Pace) -> Iterator[Sequence[bytes]]:
    place = 0
    while place < len(names):
        # Read once: the pace is another when the next few are asked for.
        few = names[place : place + pace.removed]
        place += len(few)
        yield few


def _timed(act: Callable[[], Any], done: Cleared, pace: _Pace, *, scan: bool = False) -> Any:
    began = time.monotonic()
    answer = act()
    seconds = time.monotonic() - began
    done.slowest_s = round(max(done.slowest_s, seconds), 4)
    pace.took(seconds, scan=scan)
    time.sleep(min(REST * seconds, 1.0))
    return answer


def _bounded(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **arguments,
        "decode_responses": False,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": TIMEOUT_S,
        "socket_connect_timeout": TIMEOUT_S,
    }


def _glob(prefix: str) -> bytes:
    """The prefix as SCAN's MATCH takes it literally."""
    return "".join("\\" + letter if letter in "*?[]\\^-" else letter for letter in prefix).encode()


def _where(arguments: Mapping[str, Any]) -> str:
    return f"Redis at {arguments.get('host')}:{arguments.get('port')}"
