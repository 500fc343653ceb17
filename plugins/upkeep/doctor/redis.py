"""Redis: whether it logs us in, and tells us how it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis.backoff import NoBackoff
from redis.client import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.retry import Retry

from upkeep.doctor.verdict import fine, missing, note
from upkeep.findings import Outcome
from upkeep.health.side_by_side import one_line


def look(arguments: Mapping[str, Any], conn_id: str) -> list[Outcome]:
    """:param arguments: for ``redis.Redis``."""
    user = arguments.get("username") or "default"
    ours = {"socket_timeout": 3, "socket_connect_timeout": 3, "retry": Retry(NoBackoff(), 0), "decode_responses": True}
    with Redis(**{**arguments, **ours}) as client:
        try:
            client.ping()
            info = client.info()
        except NoPermissionError as refused:
            return [missing("info", conn_id, one_line(refused), f"ACL SETUSER {user} +ping +info")]
        except AuthenticationError as refused:
            cure = f"correct login and password of connection {conn_id}"
            return [missing("connect", conn_id, one_line(refused), cure)]
        except RedisError as down:
            cure = f"correct host, port or ssl of connection {conn_id}, or start the server"
            return [missing("connect", conn_id, one_line(down), cure)]
    outcomes = [fine("connect", conn_id, f"Redis {info['redis_version']} as {user}")]
    if not arguments.get("password"):
        cure = "set `requirepass`, or users with passwords, and the connection's password"
        outcomes.append(note("password", conn_id, "it asks for no password", cure))
    return outcomes
