"""The servers, in the order in which they start. Importing this registers their faults."""

from __future__ import annotations

import json
from collections.abc import Callable

from sandbox import certificates, processes
from sandbox.home import Home
from sandbox.servers import backup_faults as backup_faults  # registers faults
from sandbox.servers import postgres, redis, s3
from sandbox.servers import postgres_faults as postgres_faults
from sandbox.servers import postgres_worn as postgres_worn
from sandbox.servers.endpoints import start_endpoints
from sandbox.servers.hosts import start_hosts
from sandbox.servers.inboxes import start_inboxes
from sandbox.servers.kafka import start_kafka
from sandbox.servers.kubernetes import start_kubernetes
from sandbox.servers.prometheus import start_node_exporter, start_prometheus

SERVERS: dict[str, Callable[[Home], None]] = {
    "postgres.control": postgres.start_control,
    "postgres.studyspot": postgres.start_studyspot,
    "postgres.studyspot_standby": postgres.start_studyspot_standby,
    "postgres.adaptive_learning": postgres.start_adaptive_learning,
    "redis.studyspot": redis.start_studyspot_redis,
    "redis.adaptive_learning": redis.start_adaptive_learning_redis,
    "s3": s3.start_s3,
    "endpoints": start_endpoints,
    "kafka": start_kafka,
    "kubernetes": start_kubernetes,
    "inboxes": start_inboxes,
    "node_exporter": start_node_exporter,
    "prometheus": start_prometheus,
    "hosts": start_hosts,
}
"""Each starts one server unless it runs, loads what it holds, and publishes its connections."""

AFTER = {"postgres.studyspot_standby": "postgres.studyspot", "prometheus": "node_exporter"}
"""Who must be up before whom."""


def prepare(home: Home, *, scale: float) -> None:
    """What must be there before the first server: the certificate authority, the scale of the sample data."""
    home.path.mkdir(parents=True, exist_ok=True)
    forget_taken_ports(home)
    certificates.authority(home)
    home.remember("sandbox", scale=scale)


def forget_taken_ports(home: Home) -> None:
    """Ports that somebody else took since the last ``down``: their servers get others."""
    ports = home.state().get("ports", {})
    ours = [name for name in home.state().get("processes", {}) if processes.running(home, name)]
    mine = {port for port in ports if any(port == name or port.startswith(f"{name}.") for name in ours)}
    taken = [name for name, port in ports.items() if name not in mine and processes.listening(port)]
    with home.change() as state:
        for name in taken:
            del state["ports"][name]


def environment(home: Home) -> dict[str, str]:
    """Environment variables that make Airflow and ``python -m upkeep`` look at this sandbox."""
    state = home.state()
    made = {
        f"AIRFLOW_CONN_{conn_id.upper()}": json.dumps(connection)
        for conn_id, connection in sorted(state.get("connections", {}).items())
    }
    made["UPKEEP_SETTINGS"] = str(home.path / "upkeep.yaml")
    if (authority := home.path / "certificates" / "trust.pem").exists():
        made["SSL_CERT_FILE"] = str(authority)
    return made
