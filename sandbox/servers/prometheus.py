"""
Prometheus and a node exporter, the real ones; the platforms' hosts are pretended.

A platform's disks must not be the worker's, so the exporter reads what its hosts measured from text files. Every
series carries ``platform`` and an ``instance`` of its own (``honor_labels``), as from an exporter on each host.
"""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from sandbox import processes
from sandbox.binaries import debian
from sandbox.faults import fault
from sandbox.home import Home, SandboxError

NAME = "prometheus"
EXPORTER = "node_exporter"
METRICS = "node_exporter"
"""Directory of the text files that the exporter reads."""

GIB = 1024**3

ADDRESSES = ("prometheus.studyspot.internal:9090", "prometheus.adaptive-learning.internal:9090")
"""Two names, one server: the label ``platform`` tells the platforms apart."""


@dataclass(frozen=True)
class Disk:
    mountpoint: str
    gib: int
    used: float
    """Share, 0 to 1."""

    fstype: str = "ext4"
    device: str = "/dev/nvme0n1p1"


@dataclass(frozen=True)
class Host:
    platform: str
    name: str
    memory_gib: int
    memory_used: float
    disks: tuple[Disk, ...]


def _host(platform: str, name: str, memory_gib: int, memory_used: float, *disks: Disk) -> Host:
    # Nearly full on every healthy host, and nobody's concern: queries have to leave it out.
    run = Disk("/run", memory_gib // 8, 0.97, fstype="tmpfs", device="tmpfs")
    return Host(platform, name, memory_gib, memory_used, (Disk("/", 100, 0.38), run, *disks))


DATA = "/var/lib/postgresql"

HOSTS = (
    _host("studyspot", "db-0", 64, 0.61, Disk(DATA, 500, 0.57, device="/dev/nvme1n1")),
    _host("studyspot", "db-1", 64, 0.44, Disk(DATA, 500, 0.57, device="/dev/nvme1n1")),
    _host("studyspot", "node-0", 32, 0.58),
    _host("studyspot", "node-1", 32, 0.52),
    _host("adaptive_learning", "db-0", 96, 0.63, Disk(DATA, 1000, 0.66, device="/dev/nvme1n1")),
    _host("adaptive_learning", "kafka-0", 32, 0.55, Disk("/var/lib/kafka", 400, 0.41, fstype="xfs")),
    _host("adaptive_learning", "node-0", 64, 0.49),
)

_HELP = {
    "node_filesystem_size_bytes": "Filesystem size in bytes.",
    "node_filesystem_free_bytes": "Filesystem free space in bytes.",
    "node_filesystem_avail_bytes": "Filesystem space available to non-root users in bytes.",
    "node_filesystem_readonly": "Filesystem read-only status.",
    "node_memory_MemTotal_bytes": "Memory information field MemTotal_bytes.",
    "node_memory_MemAvailable_bytes": "Memory information field MemAvailable_bytes.",
    "instance:node_cpu_utilisation:rate5m": "Share of the host's CPU in use, as a recording rule keeps it.",
    "service:requests:rate5m": "Requests per second, as a recording rule keeps them.",
    "service:request_errors:ratio_rate5m": "Share of requests answered with 5xx, as a recording rule keeps it.",
}

SERVICES = {"studyspot": ("api", "web"), "adaptive_learning": ("api", "app")}
REQUESTS = 40.0
ERRORS, MANY_ERRORS = 0.002, 0.12


@dataclass(frozen=True)
class Change:
    """What a fault changes on one host; None leaves a share as it is."""

    host: str
    disk: float | None = None
    """Used share of the disk at ``DATA``."""

    memory: float | None = None


CHANGES = {
    "disk_filling": ("the disk of db-0 is 85 % full", Change("db-0", disk=0.85)),
    "disk_nearly_full": ("the disk of db-0 is 95 % full", Change("db-0", disk=0.95)),
    "memory_high": ("93 % of the memory of db-0 is in use", Change("db-0", memory=0.93)),
}


# -- servers -----------------------------------------------------------------------------------------------


def start_node_exporter(home: Home) -> None:
    port = home.port(EXPORTER, 29100)
    write_metrics(home)
    processes.start(
        home,
        EXPORTER,
        [
            debian("prometheus-node-exporter") / "usr/bin/prometheus-node-exporter",
            f"--web.listen-address=127.0.0.1:{port}",
            # Only what cannot be mistaken for a platform's host: the machine's own disks stay out.
            *("--collector.disable-defaults", "--collector.textfile", "--collector.loadavg"),
            f"--collector.textfile.directory={home.directory(METRICS)}",
            "--log.level=warn",
        ],
        ready=lambda: processes.listening(port),
    )


def start_prometheus(home: Home) -> None:
    """
    Start it unless it runs, and publish where its names lead.

    Waits for the first samples: about 5 s, because Prometheus looks at its targets no sooner.
    """
    port = home.port(NAME, 29090)
    for address in ADDRESSES:
        home.connect_to(address, f"127.0.0.1:{port}")
    configuration = home.directory(NAME) / "prometheus.yml"
    # JSON is YAML.
    configuration.write_text(json.dumps(_configuration(home.port(EXPORTER, 29100)), indent=1))
    processes.start(
        home,
        NAME,
        [
            debian("prometheus") / "usr/bin/prometheus",
            f"--config.file={configuration}",
            f"--storage.tsdb.path={home.directory(NAME) / 'data'}",
            "--storage.tsdb.retention.size=200MB",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ],
        ready=lambda: _answers(f"http://127.0.0.1:{port}/-/ready"),
    )
    if processes.running(home, EXPORTER):
        processes.wait_until(lambda: _settled(home), 15, "Prometheus to have its first samples")


def stop_prometheus(home: Home) -> None:
    _resume(home)
    processes.stop(home, NAME)


def stop_node_exporter(home: Home) -> None:
    processes.stop(home, EXPORTER)


def _configuration(exporter_port: int) -> dict[str, object]:
    return {
        # Short, because every broken and healed fault waits until Prometheus has seen it.
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
        "scrape_configs": [
            {
                "job_name": "node",
                "honor_labels": True,
                "static_configs": [{"targets": [f"127.0.0.1:{exporter_port}"]}],
            }
        ],
    }


# -- what the hosts measure --------------------------------------------------------------------------------


def write_metrics(home: Home) -> None:
    """The text files that the exporter reads, one per platform, as the faults that are on want them."""
    directory = home.directory(METRICS)
    on = set(home.facts(EXPORTER).get("on", []))
    for platform in sorted({host.platform for host in HOSTS}):
        target = directory / f"{platform}.prom"
        if {"metrics_missing", f"{platform}_metrics_missing"} & on:
            target.unlink(missing_ok=True)
            continue
        # The exporter reads *.prom alone, so it never sees half a file.
        draft = directory / f"{platform}.draft"
        draft.write_text("".join(_exposition(platform, on)))
        draft.replace(target)


def _exposition(platform: str, on: set[str]) -> Iterator[str]:
    samples: dict[str, list[str]] = {name: [] for name in _HELP}
    for host in (host for host in HOSTS if host.platform == platform):
        labels = f'platform="{platform}",instance="{host.name}:9100"'
        memory, data = _shares(host, on)
        total = host.memory_gib * GIB
        samples["node_memory_MemTotal_bytes"].append(f"{{{labels}}} {total}")
        samples["node_memory_MemAvailable_bytes"].append(f"{{{labels}}} {round(total * (1 - memory))}")
        samples["instance:node_cpu_utilisation:rate5m"].append(f"{{{labels}}} {host.memory_used / 2:.3f}")
        for disk in host.disks:
            used = data if disk.mountpoint == DATA and data is not None else disk.used
            size, left = disk.gib * GIB, round(disk.gib * GIB * (1 - used))
            where = f'{labels},device="{disk.device}",fstype="{disk.fstype}",mountpoint="{disk.mountpoint}"'
            samples["node_filesystem_size_bytes"].append(f"{{{where}}} {size}")
            samples["node_filesystem_free_bytes"].append(f"{{{where}}} {left}")
            samples["node_filesystem_avail_bytes"].append(f"{{{where}}} {left}")
            samples["node_filesystem_readonly"].append(f"{{{where}}} 0")
    for service in SERVICES[platform]:
        labels = f'{{platform="{platform}",service="{service}"}}'
        failing = f"{platform}_errors_high" in on and service == "api"
        samples["service:requests:rate5m"].append(f"{labels} {REQUESTS}")
        samples["service:request_errors:ratio_rate5m"].append(f"{labels} {MANY_ERRORS if failing else ERRORS}")
    for name, lines in samples.items():
        yield f"# HELP {name} {_HELP[name]}\n# TYPE {name} gauge\n"
        yield from (f"{name}{line}\n" for line in lines)


def _shares(host: Host, on: set[str]) -> tuple[float, float | None]:
    """Used share of the memory, and of the disk at ``DATA`` where a fault changes it."""
    memory, data = host.memory_used, None
    for name, (_, change) in CHANGES.items():
        if f"{host.platform}_{name}" in on and change.host == host.name:
            memory = change.memory if change.memory is not None else memory
            data = change.disk if change.disk is not None else data
    return memory, data


# -- asking ------------------------------------------------------------------------------------------------


def query(home: Home, promql: str) -> list[tuple[dict[str, str], float]]:
    """Labels and value of each series now. :raises SandboxError: it does not answer, or refuses the query."""
    url = f"http://127.0.0.1:{home.port(NAME, 29090)}/api/v1/query?{urllib.parse.urlencode({'query': promql})}"
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            found = json.load(answer)["data"]["result"]
    except OSError as wrong:
        raise SandboxError(f"Prometheus: {wrong}") from None
    return [(series["metric"], float(series["value"][1])) for series in found]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _settled(home: Home) -> bool:
    """Prometheus sees what the exporter shows: the same samples as the text files hold."""
    wanted = [
        float(line.rsplit(" ", 1)[1])
        for file in home.directory(METRICS).glob("*.prom")
        for line in file.read_text().splitlines()
        if not line.startswith("#")
    ]
    try:
        seen = query(home, f'{{__name__=~"{"|".join(_HELP)}"}}')
    except SandboxError:
        return False
    return sorted(value for _, value in seen) == sorted(wanted)


# -- faults ------------------------------------------------------------------------------------------------


def _switch(home: Home, name: str, *, on: bool) -> None:
    with home.change() as state:
        facts = state.setdefault("facts", {}).setdefault(EXPORTER, {})
        facts["on"] = sorted({*facts.get("on", [])} - {name} | ({name} if on else set()))
    write_metrics(home)
    if processes.running(home, NAME) and processes.running(home, EXPORTER):
        processes.wait_until(lambda: _settled(home), 15, f"Prometheus to see {name}")


def _measured(name: str, doc: str) -> None:
    fault(
        name,
        doc,
        break_=lambda home: _switch(home, name, on=True),
        heal=lambda home: _switch(home, name, on=False),
    )


def _break_stale(home: Home) -> None:
    stop_node_exporter(home)
    if processes.running(home, NAME):
        down = 'up{job="node"} == 0'
        processes.wait_until(lambda: bool(query(home, down)), 15, "Prometheus to miss the exporter")


def _heal_stale(home: Home) -> None:
    start_node_exporter(home)
    if processes.running(home, NAME):
        processes.wait_until(lambda: _settled(home), 15, "Prometheus to find the exporter again")


def _suspend(home: Home) -> None:
    if pid := processes.running(home, NAME):
        psutil.Process(pid).suspend()


def _resume(home: Home) -> None:
    if pid := processes.running(home, NAME):
        psutil.Process(pid).resume()


def _heal_hang(home: Home) -> None:
    _resume(home)
    if processes.running(home, NAME) and processes.running(home, EXPORTER):
        processes.wait_until(lambda: _settled(home), 15, "Prometheus to go on")


for _platform in ("studyspot", "adaptive_learning"):
    for _name, (_doc, _) in CHANGES.items():
        _measured(f"{_platform}_{_name}", f"{_platform}: {_doc}")
    _measured(f"{_platform}_errors_high", f"{_platform}: {MANY_ERRORS:.0%} of the API's requests fail")
    _measured(f"{_platform}_metrics_missing", f"{_platform}: its hosts are measured by nobody")
_measured("metrics_missing", "no host is measured, though the node exporter answers")
fault("metrics_stale", "the node exporter is down: no new samples", break_=_break_stale, heal=_heal_stale)
fault("prometheus_hangs", "Prometheus accepts connections, never answers", break_=_suspend, heal=_heal_hang)
fault("prometheus_down", "Prometheus refuses connections", break_=stop_prometheus, heal=start_prometheus)
