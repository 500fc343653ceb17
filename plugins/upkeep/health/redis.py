"""Redis by real use: log in, ask; then memory, hit rate, persistence and clients from its own counters."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from redis.backoff import NoBackoff
from redis.client import Redis as Client
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.retry import Retry

from upkeep.findings import Finding, Outcome, Severity, judged, ok, unknown
from upkeep.health.side_by_side import PAUSE_S, one_line
from upkeep.platforms.services import Redis

MOST_SECONDS = 5.5
"""Of everything together: its client is imported first, and the health area as a whole ends within ten."""

DEPENDENT = ("redis_memory", "redis_hit_rate", "redis_persistence", "redis_clients")

MEMORY_LIMIT_SEVERITY = Severity.P3
EVICTIONS_SEVERITY = Severity.P3
PERSISTENCE_SEVERITY = Severity.P2
CLIENTS_SEVERITY = Severity.P2

WRITES_REFUSED = "writes_refused"
"""Added to what ``INFO`` says."""

CLIENTS_SHARE = 0.9
"""Of maxclients: the next burst is refused."""

Counters = dict[str, float]
"""``redis_hits, redis_misses, redis_evicted, redis_rejected``; ``redis_run`` tells one start from the next."""


def look(
    settings: Redis,
    arguments: Mapping[str, Any],
    *,
    previous: Mapping[str, float],
    timeout_s: float = 3.0,
    conn_id: str = "the Redis connection",
) -> tuple[list[Outcome], Counters]:
    """
    Every ``redis_*`` check, and the counters to hold against the next look.

    :param arguments: for ``redis.Redis``.
    :param previous: the counters of the last look; empty when there was none.
    :param timeout_s: for connecting, and for each answer.
    :param conn_id: what hints call the connection.
    """
    info, trouble = _ask(arguments, timeout_s)
    if info is not None:
        now = _counters(info)
        since = _since(previous, now)
        outcomes = [
            _connected(settings, info),
            _memory(settings, info, since),
            _hit_rate(settings, since),
            _persistence(settings, info),
            _clients(info, since),
        ]
        return outcomes, now
    assert trouble is not None
    said = _said(trouble)
    if isinstance(trouble, NoPermissionError):
        # It logs us in and answers; it only may not tell.
        reason = f"{said}; allow the user +ping and +info"
        checks = {"redis_connect": settings.severity, **{check: _severity(settings, check) for check in DEPENDENT}}
        return [unknown(check, severity, reason) for check, severity in checks.items()], {}
    finding = _unusable(settings, said, isinstance(trouble, AuthenticationError), conn_id)
    rest = [
        unknown(check, _severity(settings, check), finding.summary, explained_by="redis_connect") for check in DEPENDENT
    ]
    return [judged("redis_connect", settings.severity, [finding], error=said), *rest], {}


def info_of(arguments: Mapping[str, Any], timeout_s: float = 3.0) -> Mapping[str, Any]:
    """``INFO``. :raises RedisError: twice no answer, or a refusal. :raises OSError: no connection."""
    info, trouble = _ask(arguments, timeout_s)
    if info is None:
        assert trouble is not None
        raise trouble
    return info


def _ask(arguments: Mapping[str, Any], timeout_s: float) -> tuple[Mapping[str, Any] | None, Exception | None]:
    """``INFO``, or why there is none; tried twice, because one blip pages nobody."""
    began = time.monotonic()
    trouble: Exception | None = None
    for last in (False, True):
        wait_s = min(timeout_s, MOST_SECONDS - (time.monotonic() - began))
        own = {
            "decode_responses": True,
            # Servers before 6 know no HELLO, and a missing password is said more plainly without it.
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": wait_s,
            "socket_connect_timeout": wait_s,
        }
        try:
            with Client(**{**arguments, **own}) as client:
                refused = _ping(client)
                return {**client.info(), WRITES_REFUSED: refused}, None
        except (RedisError, OSError) as failed:
            trouble = failed
        # A second try with a refused password could lock the account.
        if last or isinstance(trouble, (AuthenticationError, NoPermissionError)):
            break
        time.sleep(PAUSE_S)
    return None, trouble


def _ping(client: Client) -> str:
    """Why it takes no writes, in its own words: a server that cannot save refuses PING too, and answers all else."""
    try:
        client.ping()
    except ResponseError as no:
        if not str(no).startswith("MISCONF"):
            raise
        return str(no)
    return ""


def _severity(settings: Redis, check: str) -> Severity:
    """What a check counts with when it could not look."""
    return {
        "redis_memory": settings.memory.critical_severity,
        "redis_hit_rate": settings.hit_rate.critical_severity,
        "redis_persistence": PERSISTENCE_SEVERITY,
        "redis_clients": CLIENTS_SEVERITY,
    }[check]


# -- connecting ----------------------------------------------------------------------------------------


def _said(trouble: Exception) -> str:
    text = one_line(trouble).partition(": ")[2] or type(trouble).__name__
    return re.sub(r"^Error \d+ connecting to \S+ ", "", text).rstrip(".")


def _unusable(settings: Redis, said: str, refused: bool, conn_id: str) -> Finding:
    if refused:
        hint = f"correct user and password of connection `{conn_id}`; trying again does not help."
    elif "max number of clients" in said:
        hint = "end idle clients (CLIENT LIST, `timeout`), find what leaks them, or raise maxclients."
    elif "LOADING" in said or "loading the dataset" in said:
        hint = "it has restarted and reads its data: why did it stop? Its log tells."
    elif "imeout" in said or "timed out" in said:
        hint = "it accepts but does not answer: a slow command (SLOWLOG), swapping, or a frozen host."
    else:
        hint = "is the server running? Look at its process and log, then at the network between it and the workers."
    return Finding(
        check="redis_connect",
        severity=settings.severity,
        summary=f"no usable connection: {said}",
        hint=hint,
        facts={"error": said},
    )


def _connected(settings: Redis, info: Mapping[str, Any]) -> Outcome:
    facts: dict[str, Any] = {
        "version": info.get("redis_version"),
        "role": info.get("role"),
        "uptime_s": info.get("uptime_in_seconds"),
        "replicas": info.get("connected_slaves"),
    }
    findings = []
    if info.get("role") != "master":
        findings.append(
            Finding(
                check="redis_connect",
                object="role",
                severity=settings.severity,
                summary=f"the server is a replica (role {info.get('role')}, link {info.get('master_link_status')})",
                hint="did it fail over? Point the connection (or the service in front) at the master.",
                facts=facts,
            )
        )
    return judged("redis_connect", settings.severity, findings, **facts)


# -- counters ------------------------------------------------------------------------------------------


def _counters(info: Mapping[str, Any]) -> Counters:
    return {
        # The first 48 bits of the run id: exact in a float, and another one after each start.
        "redis_run": float(int(str(info.get("run_id", "0"))[:12] or "0", 16)),
        "redis_hits": float(info.get("keyspace_hits", 0)),
        "redis_misses": float(info.get("keyspace_misses", 0)),
        "redis_evicted": float(info.get("evicted_keys", 0)),
        "redis_rejected": float(info.get("rejected_connections", 0)),
    }


def _since(previous: Mapping[str, float], now: Counters) -> Counters | None:
    """
    What happened since the last look; since the start when the server was restarted or its counters reset.

    None when there was no last look: counters of a whole life say nothing about today.
    """
    if "redis_run" not in previous:
        return None
    counters = [name for name in now if name != "redis_run"]
    fresh = previous["redis_run"] != now["redis_run"] or any(now[name] < previous.get(name, 0) for name in counters)
    return {name: now[name] - (0 if fresh else previous.get(name, 0)) for name in counters}


# -- looking -------------------------------------------------------------------------------------------


def _memory(settings: Redis, info: Mapping[str, Any], since: Counters | None) -> Outcome:
    used, most, policy = int(info["used_memory"]), int(info.get("maxmemory", 0)), str(info.get("maxmemory_policy", ""))
    evicted = int(since["redis_evicted"]) if since else 0
    facts: dict[str, Any] = {"used_bytes": used, "max_bytes": most, "policy": policy, "evicted": evicted}
    findings = []

    def found(object: str, severity: Severity, summary: str, hint: str) -> None:
        findings.append(
            Finding(
                check="redis_memory", object=object, severity=severity, summary=summary, hint=hint, facts=dict(facts)
            )
        )

    if most == 0:
        found(
            "limit",
            MEMORY_LIMIT_SEVERITY,
            f"no maxmemory is set ({used / 2**20:.0f} MiB in use): it grows until the kernel ends it",
            "set maxmemory, and a maxmemory-policy that fits a cache (allkeys-lru) or a store (noeviction).",
        )
    else:
        facts["share"] = round(used / most, 4)
        if severity := settings.memory.severity(used / most):
            then = "writes will be refused" if policy == "noeviction" else f"keys will be evicted ({policy})"
            found(
                "",
                severity,
                f"{used / 2**20:.0f} of {most / 2**20:.0f} MiB in use ({used / most:.0%}); when it is full, {then}",
                "find what grows (`redis-cli --bigkeys`, keys without TTL), or raise maxmemory.",
            )
    if evicted:
        found(
            "evictions",
            EVICTIONS_SEVERITY,
            f"{evicted:,} keys evicted since the last look ({policy})",
            "the cache is too small for what is kept in it: raise maxmemory or shorten TTLs.",
        )
    return judged("redis_memory", settings.memory.critical_severity, findings, **facts)


def _hit_rate(settings: Redis, since: Counters | None) -> Outcome:
    severity = settings.hit_rate.critical_severity
    if since is None:
        return ok("redis_hit_rate", severity, note="no data: this is the first look")
    hits, reads = int(since["redis_hits"]), int(since["redis_hits"] + since["redis_misses"])
    if reads < settings.least_reads or reads == 0:
        return ok(
            "redis_hit_rate",
            severity,
            note=f"no data: {reads} reads since the last look, fewer than {settings.least_reads}",
            reads=reads,
        )
    rate = hits / reads
    facts: dict[str, Any] = {"hits": hits, "reads": reads, "rate": round(rate, 4)}
    findings = []
    if worse := settings.hit_rate.severity(rate):
        findings.append(
            Finding(
                check="redis_hit_rate",
                severity=worse,
                summary=f"{rate:.0%} of {reads:,} reads since the last look were hits ({hits:,}); "
                f"{settings.hit_rate.warn:.0%} is the least",
                hint="was the cache cleared, a key pattern changed, a TTL shortened? The database carries the rest.",
                facts=facts,
            )
        )
    return judged("redis_hit_rate", severity, findings, **facts)


def _persistence(settings: Redis, info: Mapping[str, Any]) -> Outcome:
    # As bad as a server that is down: whoever writes is refused.
    refused = bool(info.get(WRITES_REFUSED))
    severity = settings.severity if refused else PERSISTENCE_SEVERITY
    facts: dict[str, Any] = {
        "last_save": info.get("rdb_last_bgsave_status"),
        "changes_since_save": info.get("rdb_changes_since_last_save"),
        "aof": info.get("aof_enabled"),
        "aof_last_write": info.get("aof_last_write_status"),
        "aof_last_rewrite": info.get("aof_last_bgrewrite_status"),
        "refuses_writes": refused,
    }
    wrong = [
        ("snapshot", facts["last_save"], "the last snapshot (BGSAVE) failed"),
        ("aof", facts["aof_last_write"], "the last write to the append-only file failed"),
        ("aof_rewrite", facts["aof_last_rewrite"], "the last rewrite of the append-only file failed"),
    ]
    findings = [
        Finding(
            check="redis_persistence",
            object=object,
            severity=severity,
            summary=f"{summary}; {facts['changes_since_save']} changes are not in a snapshot"
            + ("; until one succeeds it refuses every write" if refused else ""),
            hint="its log says why: a full disk, a directory it may not write, or no memory to fork.",
            facts=facts,
        )
        for object, status, summary in wrong
        if status not in ("ok", None)
    ]
    return judged("redis_persistence", PERSISTENCE_SEVERITY, findings, **facts)


def _clients(info: Mapping[str, Any], since: Counters | None) -> Outcome:
    clients, most = int(info.get("connected_clients", 0)), int(info.get("maxclients", 0))
    rejected = int(since["redis_rejected"]) if since else 0
    facts: dict[str, Any] = {
        "clients": clients,
        "max_clients": most,
        "blocked": info.get("blocked_clients"),
        "rejected": rejected,
    }
    findings = []
    if rejected or (most and clients / most >= CLIENTS_SHARE):
        findings.append(
            Finding(
                check="redis_clients",
                severity=CLIENTS_SEVERITY,
                summary=f"{clients} of {most} clients connected, {rejected} refused since the last look",
                hint="end idle clients (CLIENT LIST, `timeout`), find what leaks them, or raise maxclients.",
                facts=facts,
            )
        )
    return judged("redis_clients", CLIENTS_SEVERITY, findings, **facts)
