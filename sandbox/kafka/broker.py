"""What one broker answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from sandbox.kafka.cluster import (
    BROKER_CONFIGS,
    CORRUPT_MESSAGE,
    INVALID_REPLICATION,
    INVALID_REQUEST,
    LEADER_NOT_AVAILABLE,
    NONE,
    NOT_ENOUGH_REPLICAS,
    OFFSET_OUT_OF_RANGE,
    STORAGE_ERROR,
    TOPIC_CONFIGS,
    UNKNOWN_TOPIC,
    Refused,
)
from sandbox.kafka.coordinator import HOST, NOT_ASKED, Client, Coordinator, each, outcome
from sandbox.kafka.wire import Malformed

_TOPIC, _BROKER = 2, 4
_FROM_TOPIC, _FROM_FILE, _DEFAULT = 1, 4, 5


class Broker(Coordinator):
    """Broker ``id``: its share of the cluster's logs, its topics, and the groups it coordinates."""

    # -- the cluster -------------------------------------------------------------------------------------

    async def metadata(self, request: dict[str, Any], client: Client) -> dict[str, Any]:
        cluster, wanted = self.cluster, request["topics"]
        # The first version had no null: an empty list meant all topics.
        everything = wanted is None or (wanted == [] and "auto_create" not in request)
        return {
            "throttle_ms": 0,
            "brokers": [{"id": id, "host": HOST, "port": cluster.ports[id], "rack": None} for id in cluster.alive],
            "cluster_id": "upkeep-sandbox",
            "controller_id": next(iter(cluster.alive), -1),
            "topics": [self._topic(name) for name in (cluster.topics if everything else wanted)],
            "operations": NOT_ASKED,
        }

    def _topic(self, name: str) -> dict[str, Any]:
        cluster = self.cluster
        known = cluster.topics.get(name)
        partitions = []
        for index, partition in enumerate(known.partitions if known else ()):
            leader, in_sync = cluster.leader(name, index), cluster.in_sync(name, index)
            partitions.append(
                {
                    "error": LEADER_NOT_AVAILABLE if leader < 0 else NONE,
                    "index": index,
                    "leader": leader,
                    "leader_epoch": 0,
                    "replicas": partition.replicas,
                    # The last in-sync replica stays on the list when it goes: it alone may lead again.
                    "isr": in_sync or partition.replicas[:1],
                    "offline": [broker for broker in partition.replicas if broker not in in_sync],
                }
            )
        return {
            "error": NONE if known else UNKNOWN_TOPIC,
            "name": name,
            "is_internal": False,
            "partitions": partitions,
            "operations": NOT_ASKED,
        }

    # -- records -----------------------------------------------------------------------------------------

    async def produce(self, request: dict[str, Any], client: Client) -> dict[str, Any] | None:
        def write(topic: str, asked: dict[str, Any]) -> dict[str, Any]:
            partition = self.cluster.led_by(self.id, topic, asked["index"])
            configs = self.cluster.topics[topic].configs
            least = int(configs.get("min.insync.replicas", TOPIC_CONFIGS["min.insync.replicas"][0]))
            if request["acks"] == -1 and len(self.cluster.in_sync(topic, asked["index"])) < least:
                raise Refused(NOT_ENOUGH_REPLICAS, "too few replicas in sync")
            try:
                first = partition.log.append(asked["records"] or b"")
            except Malformed as wrong:
                raise Refused(CORRUPT_MESSAGE, str(wrong)) from wrong
            return {"base_offset": first, "log_start": partition.log.start}

        answer = each(request["topics"], write, base_offset=-1, log_append_time=-1, log_start=-1)
        return None if request["acks"] == 0 else {"throttle_ms": 0, "topics": answer}

    async def fetch(self, request: dict[str, Any], client: Client) -> dict[str, Any]:
        deadline = asyncio.get_running_loop().time() + request["max_wait_ms"] / 1000
        while True:
            answer = self._fetched(request)
            size = sum(len(p["records"]) for topic in answer["topics"] for p in topic["partitions"])
            failed = any(p["error"] for topic in answer["topics"] for p in topic["partitions"])
            if size >= request["min_bytes"] or failed or asyncio.get_running_loop().time() >= deadline:
                return answer
            await asyncio.sleep(0.02)

    def _fetched(self, request: dict[str, Any]) -> dict[str, Any]:
        left = request["max_bytes"]

        def read(topic: str, asked: dict[str, Any]) -> dict[str, Any]:
            nonlocal left
            log = self.cluster.led_by(self.id, topic, asked["index"]).log
            if not log.start <= asked["offset"] <= log.end:
                raise Refused(OFFSET_OUT_OF_RANGE, f"{asked['offset']} is not in {log.start}…{log.end}")
            records = log.read(asked["offset"], min(left, asked["max_bytes"])) if left > 0 else b""
            left -= len(records)
            return {"high_watermark": log.end, "last_stable": log.end, "log_start": log.start, "records": records}

        empty = {"high_watermark": -1, "last_stable": -1, "log_start": -1, "aborted": None, "preferred_replica": -1}
        topics = each(request["topics"], read, **empty, records=b"")
        return {"throttle_ms": 0, "error": NONE, "session_id": 0, "topics": topics}

    async def list_offsets(self, request: dict[str, Any], client: Client) -> dict[str, Any]:
        def find(topic: str, asked: dict[str, Any]) -> dict[str, Any]:
            log = self.cluster.led_by(self.id, topic, asked["index"]).log
            if asked["timestamp"] == -1:
                return {"offset": log.end}
            if asked["timestamp"] == -2:
                return {"offset": log.start}
            return dict(zip(("timestamp", "offset"), log.since(asked["timestamp"]), strict=True))

        topics = each(request["topics"], find, timestamp=-1, offset=-1, leader_epoch=-1)
        return {"throttle_ms": 0, "topics": topics}

    async def delete_records(self, request: dict[str, Any], client: Client) -> dict[str, Any]:
        def cut(topic: str, asked: dict[str, Any]) -> dict[str, Any]:
            log = self.cluster.led_by(self.id, topic, asked["index"]).log
            before = log.end if asked["offset"] == -1 else asked["offset"]
            if not 0 <= before <= log.end:
                raise Refused(OFFSET_OUT_OF_RANGE, f"{before} is beyond {log.end}")
            log.start = max(log.start, before)
            return {"low_watermark": log.start}

        topics = each(request["topics"], cut, low_watermark=-1)
        self.cluster.save()
        return {"throttle_ms": 0, "topics": topics}

    # -- administration ----------------------------------------------------------------------------------

    async def create_topics(self, request: dict[str, Any], client: Client) -> dict[str, Any]:
        def create(asked: dict[str, Any]) -> None:
            replicas = [entry["brokers"] for entry in sorted(asked["assignments"], key=lambda entry: entry["index"])]
            if not set().union(*replicas) <= set(self.cluster.ports):
                raise Refused(INVALID_REPLICATION, f"replicas {replicas} name unknown brokers")
            if not replicas:
                least = 1 if asked["partitions"] == -1 else asked["partitions"]
                replicas = self.cluster.assign(least, 1 if asked["replication"] == -1 else asked["replication"])
            configs = {config["name"]: config["value"] for config in asked["configs"]}
            self.cluster.create(asked["name"], replicas, configs, validate_only=request.get("validate_only", False))

        topics = [{"name": asked["name"], **outcome(create, asked)} for asked in request["topics"]]
        return {"throttle_ms": 0, "topics": topics}

    async def delete_topics(self, request: dict[str, Any], client: Client) -> dict[str, Any]:
        topics = [{"name": name, **outcome(self.cluster.delete, name)} for name in request["names"]]
        return {"throttle_ms": 0, "topics": topics}

    async def describe_configs(self, request: dict[str, Any], client: Client) -> dict[str, Any]:
        described = []
        for asked in request["resources"]:
            configs: list[dict[str, Any]] = []
            done = outcome(lambda asked=asked, configs=configs: configs.extend(self._configs(asked)))
            described.append({"type": asked["type"], "name": asked["name"], **done, "configs": configs})
        return {"throttle_ms": 0, "resources": described}

    def _configs(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        kind, name, keys = asked["type"], asked["name"], asked["keys"]
        if kind == _BROKER and name == str(self.id):
            values = {key: (value, _FROM_FILE) for key, value in BROKER_CONFIGS.items()}
        elif kind == _TOPIC and name in self.cluster.topics:
            own = self.cluster.topics[name].configs
            values = {key: (default, _DEFAULT) for key, (default, _) in TOPIC_CONFIGS.items()}
            values.update({key: (value, _FROM_TOPIC) for key, value in own.items()})
        else:
            raise Refused(UNKNOWN_TOPIC if kind == _TOPIC else INVALID_REQUEST, f"no such resource: {name!r}")
        return [
            {
                "name": key,
                "value": value,
                "read_only": kind == _BROKER,
                "is_default": source != _FROM_TOPIC,
                "source": source,
                "is_sensitive": False,
                "synonyms": [],
            }
            for key, (value, source) in values.items()
            if keys is None or key in keys
        ]

    async def alter_configs(self, request: dict[str, Any], client: Client) -> dict[str, Any]:
        def new(asked: dict[str, Any]) -> dict[str, str]:
            return {config["name"]: config["value"] for config in asked["configs"]}

        return self._altered(request, new)

    async def incremental_alter_configs(self, request: dict[str, Any], client: Client) -> dict[str, Any]:
        def new(asked: dict[str, Any]) -> dict[str, str]:
            topic = self.cluster.topics.get(asked["name"])
            configs = dict(topic.configs) if topic else {}
            for config in asked["configs"]:
                match config["operation"]:
                    case 0:
                        configs[config["name"]] = config["value"]
                    case 1:
                        configs.pop(config["name"], None)
                    case other:
                        raise Refused(INVALID_REQUEST, f"operation {other} is for lists")
            return configs

        return self._altered(request, new)

    def _altered(self, request: dict[str, Any], new: Callable[[dict[str, Any]], dict[str, str]]) -> dict[str, Any]:
        def alter(asked: dict[str, Any]) -> None:
            if asked["type"] != _TOPIC:
                raise Refused(INVALID_REQUEST, "only topics can be configured here")
            self.cluster.configure(asked["name"], new(asked), validate_only=request["validate_only"])

        resources = [
            {"type": asked["type"], "name": asked["name"], **outcome(alter, asked)} for asked in request["resources"]
        ]
        return {"throttle_ms": 0, "resources": resources}

    async def describe_log_dirs(self, request: dict[str, Any], client: Client) -> dict[str, Any]:
        asked = request["topics"]
        wanted = None if asked is None else {(t["name"], index) for t in asked for index in t["partitions"]}
        held: dict[str, list[dict[str, Any]]] = {}
        broken = self.id in self.cluster.failed_dirs
        for name, topic in self.cluster.topics.items():
            for index, partition in enumerate(topic.partitions):
                if self.id not in partition.replicas:
                    continue
                if (name, index) in self.cluster.offline:
                    broken = True
                elif wanted is None or (name, index) in wanted:
                    held.setdefault(name, []).append(
                        {"index": index, "size": partition.log.size, "offset_lag": 0, "is_future": False}
                    )
        good, other = BROKER_CONFIGS["log.dirs"].split(",")
        topics = [{"name": name, "partitions": partitions} for name, partitions in held.items()]
        dirs = [
            {"error": NONE, "path": good, "topics": topics},
            {"error": STORAGE_ERROR if broken else NONE, "path": other, "topics": []},
        ]
        return {"throttle_ms": 0, "dirs": dirs}

    # -- faults ------------------------------------------------------------------------------------------

    async def control(self, request: dict[str, Any], client: Client) -> dict[str, Any]:
        """As ``orders.control`` sends it; each key replaces what was set before."""
        order = json.loads(request["order"])
        if "down" in order:
            self.cluster.down = set(order["down"])
        if "hanging" in order:
            thawed = self.cluster.hanging - set(order["hanging"])
            self.cluster.hanging = set(order["hanging"])
            # A frozen process is restarted to mend it, and forgets the members of the groups it coordinates.
            for name in [name for name in self.groups if self.cluster.coordinator(name) in thawed]:
                del self.groups[name]
        if "offline" in order:
            self.cluster.offline = {(name, index) for name, index in order["offline"]}
        if "failed_dirs" in order:
            self.cluster.failed_dirs = set(order["failed_dirs"])
        if "private" in order:
            self.cluster.private = set(order["private"])
        self.cluster.save()
        return {"error": NONE, "message": ""}
