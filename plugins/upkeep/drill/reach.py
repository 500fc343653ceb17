"""How drills reach a platform: its cluster, and the pair whose primary is switched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upkeep.errors import SettingsError
from upkeep.platforms import Platform

if TYPE_CHECKING:
    from upkeep.drill.failover.local import LocalDriver
    from upkeep.drill.janitor import Hands

NODES = (
    '{"nodes": [{"name": "db-1", "host": "10.0.0.1", "port": 5432, "data": "/var/lib/postgresql/17/main",'
    ' "programs": "/usr/lib/postgresql/17/bin"}, …]}'
)


def hands(platform: Platform) -> Hands:
    """For the janitor; nothing is reached before it is needed."""
    from upkeep.connections import kubernetes_client
    from upkeep.drill.janitor import Hands

    return Hands(lambda: kubernetes_client(platform.conn("kubernetes")), lambda: driver(platform))


def driver(platform: Platform) -> LocalDriver:
    """
    What switches the primary of the pair that connection ``{platform}_failover`` names.

    :raises SettingsError: it is not there, or does not say what it must. :raises DriverError: a server is not ours.
    """
    from upkeep.connections import connection
    from upkeep.drill.failover.local import LocalDriver
    from upkeep.drill.failover.node import Node

    kind = platform.recovery.drill.failover if platform.recovery else "none"
    if kind != "streaming":
        raise SettingsError(
            f"recovery.drill.failover: {kind} is not there yet",
            hint="use streaming, or none until there is a driver for it.",
        )
    conn_id = platform.conn("failover")
    found = connection(conn_id)
    try:
        nodes = [
            Node(
                name=str(one["name"]),
                conninfo=_conninfo(found, one),
                data=Path(one["data"]),
                programs=Path(one["programs"]),
                log=Path(one["log"]) if one.get("log") else None,
            )
            for one in found.extra_dejson["nodes"]
        ]
    except (KeyError, TypeError, AttributeError) as wrong:
        raise SettingsError(
            f"connection {conn_id!r} does not describe its servers: {type(wrong).__name__} {wrong}",
            hint=f"its extra is {NODES}",
        ) from None
    return LocalDriver(nodes)


def _conninfo(found: Any, node: Mapping[str, Any]) -> str:
    from psycopg.conninfo import make_conninfo

    values = {
        "host": node.get("host") or found.host, "port": node.get("port") or found.port, "user": found.login,
        "password": found.password, "dbname": found.schema, "application_name": "upkeep", "connect_timeout": 3,
    }  # fmt: skip
    return make_conninfo("", **{name: value for name, value in values.items() if value})
