"""What the brokers know together: topics and their configurations, leaders, committed offsets, what is broken."""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandbox.kafka.records import Log

NONE = 0
UNKNOWN_SERVER = -1
OFFSET_OUT_OF_RANGE = 1
CORRUPT_MESSAGE = 2
UNKNOWN_TOPIC = 3
LEADER_NOT_AVAILABLE = 5
NOT_LEADER = 6
COORDINATOR_NOT_AVAILABLE = 15
NOT_COORDINATOR = 16
INVALID_TOPIC = 17
NOT_ENOUGH_REPLICAS = 19
ILLEGAL_GENERATION = 22
INCONSISTENT_PROTOCOL = 23
UNKNOWN_MEMBER = 25
REBALANCE_IN_PROGRESS = 27
GROUP_AUTHORIZATION_FAILED = 30
UNSUPPORTED_SASL_MECHANISM = 33
ILLEGAL_SASL_STATE = 34
UNSUPPORTED_VERSION = 35
TOPIC_EXISTS = 36
INVALID_PARTITIONS = 37
INVALID_REPLICATION = 38
INVALID_CONFIG = 40
INVALID_REQUEST = 42
STORAGE_ERROR = 56
SASL_FAILED = 58
NON_EMPTY_GROUP = 68
GROUP_NOT_FOUND = 69


class Refused(Exception):
    """A request that a real broker would answer with this error."""

    def __init__(self, error: int, message: str) -> None:
        super().__init__(message)
        self.error, self.message = error, message


def _whole(least: int) -> re.Pattern[str]:
    return re.compile(r"-1|\d{1,18}" if least < 0 else r"\d{1,18}")


TOPIC_CONFIGS: dict[str, tuple[str, re.Pattern[str]]] = {
    "cleanup.policy": ("delete", re.compile(r"delete|compact|compact,delete|delete,compact")),
    "compression.type": ("producer", re.compile("producer|uncompressed|gzip|snappy|lz4|zstd")),
    "max.message.bytes": ("1048588", _whole(0)),
    "min.insync.replicas": ("1", re.compile(r"[1-9]\d{0,3}")),
    "retention.bytes": ("-1", _whole(-1)),
    "retention.ms": ("604800000", _whole(-1)),
    "segment.bytes": ("1073741824", re.compile(r"\d{2,10}")),
    "segment.ms": ("604800000", _whole(0)),
}
"""Topic settings that are understood: default, and what is accepted."""

BROKER_CONFIGS = {
    "auto.create.topics.enable": "false",
    "log.dirs": "/var/lib/kafka/data-0,/var/lib/kafka/data-1",
    "log.retention.hours": "168",
    "num.partitions": "1",
}


@dataclass
class Partition:
    replicas: list[int]
    log: Log


@dataclass
class Topic:
    configs: dict[str, str]
    partitions: list[Partition]


@dataclass
class Cluster:
    """Brokers ``1 … n``, their ports, and everything that outlives a restart (in ``directory``)."""

    directory: Path
    ports: dict[int, int]
    topics: dict[str, Topic] = field(default_factory=dict)
    offsets: dict[str, dict[str, dict[int, tuple[int, str]]]] = field(default_factory=dict)
    """Committed offset and its metadata by group, topic and partition."""

    down: set[int] = field(default_factory=set)
    hanging: set[int] = field(default_factory=set)
    """Brokers that accept connections and read requests, but never answer."""

    offline: set[tuple[str, int]] = field(default_factory=set)
    """Partitions whose log directory failed on every replica."""

    failed_dirs: set[int] = field(default_factory=set)
    """Brokers whose second log directory, which holds nothing, has failed."""

    private: set[str] = field(default_factory=set)
    """Groups that nobody but their own members may describe."""

    changed: bool = False

    # -- who leads ---------------------------------------------------------------------------------------

    @property
    def alive(self) -> list[int]:
        return [broker for broker in self.ports if broker not in self.down]

    def in_sync(self, topic: str, index: int) -> list[int]:
        if (topic, index) in self.offline:
            return []
        return [broker for broker in self.topics[topic].partitions[index].replicas if broker not in self.down]

    def leader(self, topic: str, index: int) -> int:
        """The first replica that is alive; -1 when none is."""
        return next(iter(self.in_sync(topic, index)), -1)

    def coordinator(self, group: str) -> int:
        wanted = zlib.crc32(group.encode()) % len(self.ports) + 1
        return wanted if wanted in self.alive else next(iter(self.alive), -1)

    def partition(self, topic: str, index: int) -> Partition:
        """:raises Refused: there is no such partition."""
        if topic not in self.topics or not 0 <= index < len(self.topics[topic].partitions):
            raise Refused(UNKNOWN_TOPIC, f"no partition {topic}/{index}")
        return self.topics[topic].partitions[index]

    def led_by(self, broker: int, topic: str, index: int) -> Partition:
        """:raises Refused: no such partition, nobody leads it, or another broker does."""
        found = self.partition(topic, index)
        leader = self.leader(topic, index)
        if leader != broker:
            raise Refused(LEADER_NOT_AVAILABLE if leader < 0 else NOT_LEADER, f"{topic}/{index} is led by {leader}")
        return found

    # -- topics ------------------------------------------------------------------------------------------

    def create(self, name: str, replicas: list[list[int]], configs: dict[str, str], *, validate_only: bool) -> None:
        """:raises Refused: as a real broker would."""
        if not re.fullmatch(r"[a-zA-Z0-9._-]{1,249}", name) or name in (".", ".."):
            raise Refused(INVALID_TOPIC, f"topic name {name!r} is illegal")
        if name in self.topics:
            raise Refused(TOPIC_EXISTS, f"topic {name!r} already exists")
        for key, value in configs.items():
            check_config(key, value)
        if not validate_only:
            self.topics[name] = Topic(
                dict(configs), [Partition(list(ids), self._log(name, i)) for i, ids in enumerate(replicas)]
            )
            self.save()

    def assign(self, partitions: int, replication: int) -> list[list[int]]:
        """Replicas of each partition, spread over the brokers. :raises Refused: not that many."""
        ids = list(self.ports)
        if partitions < 1:
            raise Refused(INVALID_PARTITIONS, "number of partitions must be larger than 0")
        if not 1 <= replication <= len(self.alive):
            raise Refused(INVALID_REPLICATION, f"replication factor {replication} with {len(self.alive)} brokers")
        return [[ids[(start + step) % len(ids)] for step in range(replication)] for start in range(partitions)]

    def delete(self, name: str) -> None:
        """:raises Refused: unknown."""
        if name not in self.topics:
            raise Refused(UNKNOWN_TOPIC, f"no topic {name!r}")
        for index, _ in enumerate(self.topics.pop(name).partitions):
            self._path(name, index).unlink()
        for committed in self.offsets.values():
            committed.pop(name, None)
        self.save()

    def configure(self, name: str, configs: dict[str, str], *, validate_only: bool) -> None:
        """Replace the topic's own settings. :raises Refused: unknown topic, setting or value."""
        if name not in self.topics:
            raise Refused(UNKNOWN_TOPIC, f"no topic {name!r}")
        for key, value in configs.items():
            check_config(key, value)
        if not validate_only:
            self.topics[name].configs = dict(configs)
            self.save()

    # -- what outlives a restart -------------------------------------------------------------------------

    def save(self) -> None:
        state = {
            "topics": {
                name: {
                    "configs": topic.configs,
                    "partitions": [{"replicas": p.replicas, "start": p.log.start} for p in topic.partitions],
                }
                for name, topic in self.topics.items()
            },
            "offsets": self.offsets,
            "down": sorted(self.down),
            "hanging": sorted(self.hanging),
            "offline": sorted(self.offline),
            "failed_dirs": sorted(self.failed_dirs),
            "private": sorted(self.private),
        }
        draft = self.directory / "cluster.draft"
        draft.write_text(json.dumps(state, indent=1))
        draft.replace(self.directory / "cluster.json")
        self.changed = False

    @classmethod
    def load(cls, directory: Path, ports: dict[int, int]) -> Cluster:
        cluster = cls(directory, ports)
        (directory / "logs").mkdir(parents=True, exist_ok=True)
        known = directory / "cluster.json"
        if known.exists():
            cluster._restore(json.loads(known.read_text()))
        return cluster

    def _restore(self, state: dict[str, Any]) -> None:
        for name, topic in state["topics"].items():
            partitions = [
                Partition(p["replicas"], self._log(name, i, p["start"])) for i, p in enumerate(topic["partitions"])
            ]
            self.topics[name] = Topic(topic["configs"], partitions)
        for group, topics in state["offsets"].items():
            self.offsets[group] = {
                name: {int(index): (offset, metadata) for index, (offset, metadata) in partitions.items()}
                for name, partitions in topics.items()
            }
        self.down, self.hanging = set(state["down"]), set(state["hanging"])
        self.offline = {(name, index) for name, index in state["offline"]}
        self.failed_dirs, self.private = set(state.get("failed_dirs", ())), set(state.get("private", ()))

    def _path(self, topic: str, index: int) -> Path:
        return self.directory / "logs" / f"{topic}-{index}.log"

    def _log(self, topic: str, index: int, start: int = 0) -> Log:
        return Log(self._path(topic, index), start)


def check_config(key: str, value: str | None) -> None:
    """:raises Refused: an unknown setting, or a value it does not take."""
    if key not in TOPIC_CONFIGS:
        raise Refused(INVALID_CONFIG, f"unknown topic config name: {key}")
    if value is None or not TOPIC_CONFIGS[key][1].fullmatch(value):
        raise Refused(INVALID_CONFIG, f"invalid value {value} for configuration {key}")
