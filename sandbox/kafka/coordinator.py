"""What a broker answers as the coordinator of consumer groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sandbox.kafka.cluster import (
    GROUP_AUTHORIZATION_FAILED,
    GROUP_NOT_FOUND,
    NON_EMPTY_GROUP,
    NONE,
    NOT_COORDINATOR,
    Cluster,
    Refused,
)
from sandbox.kafka.groups import Group

HOST = "127.0.0.1"
NOT_ASKED = -(2**31)
"""What brokers send in place of the authorized operations when nobody asked for them."""


_NOBODY = {"state": "", "protocol_type": "", "protocol": "", "members": [], "operations": NOT_ASKED}
"""What is said of a group to those who may not describe it."""


@dataclass
class Client:
    """Who is asking."""

    id: str
    host: str


@dataclass
class Coordinator:
    """Broker ``id`` of the cluster; ``groups`` is shared, as a coordinator's state is after it moved."""

    cluster: Cluster
    id: int
    groups: dict[str, Group] = field(default_factory=dict)

    async def find_coordinator(self, request: dict[str, Any], client: Client) -> dict[str, Any]:
        broker = self.cluster.coordinator(request["key"])
        port = self.cluster.ports[broker]
        return {"throttle_ms": 0, "error": NONE, "message": None, "id": broker, "host": HOST, "port": port}

    def _coordinate(self, group: str) -> None:
        if self.cluster.coordinator(group) != self.id:
            raise Refused(NOT_COORDINATOR, f"{self.id} does not coordinate {group!r}")

    async def join_group(self, request: dict[str, Any], client: Client) -> dict[str, Any]:
        empty = {"generation": -1, "protocol": "", "leader": "", "member": request["member"], "members": []}
        try:
            self._coordinate(request["group"])
            group = self.groups.setdefault(request["group"], Group(request["group"]))
            joined = await group.join(request, client.id, client.host)
        except Refused as refused:
            return {"throttle_ms": 0, "error": refused.error, **empty}
        return {"throttle_ms": 0, "error": NONE, **joined}

    async def sync_group(self, request: dict[str, Any], client: Client) -> dict[str, Any]:
        try:
            self._coordinate(request["group"])
            assignment = await self._group(request["group"]).sync(request)
        except Refused as refused:
            return {"throttle_ms": 0, "error": refused.error, "assignment": b""}
        return {"throttle_ms": 0, "error": NONE, "assignment": assignment}

    async def heartbeat(self, request: dict[str, Any], client: Client) -> dict[str, Any]:
        return self._try(request, lambda group: group.heartbeat(request["member"], request["generation"]))

    async def leave_group(self, request: dict[str, Any], client: Client) -> dict[str, Any]:
        return self._try(request, lambda group: group.leave(request["member"]))

    def _try(self, request: dict[str, Any], act: Callable[[Group], None]) -> dict[str, Any]:
        try:
            self._coordinate(request["group"])
            act(self._group(request["group"]))
        except Refused as refused:
            return {"throttle_ms": 0, "error": refused.error}
        return {"throttle_ms": 0, "error": NONE}

    def _group(self, name: str) -> Group:
        return self.groups.get(name) or Group(name)

    async def offset_commit(self, request: dict[str, Any], client: Client) -> dict[str, Any]:
        def commit(topic: str, asked: dict[str, Any]) -> dict[str, Any]:
            self._coordinate(request["group"])
            self.cluster.partition(topic, asked["index"])
            self._group(request["group"]).may_commit(request["member"], request["generation"])
            committed = self.cluster.offsets.setdefault(request["group"], {}).setdefault(topic, {})
            committed[asked["index"]] = (asked["offset"], asked["metadata"] or "")
            return {}

        topics = each(request["topics"], commit)
        self.cluster.changed = True
        return {"throttle_ms": 0, "topics": topics}

    async def offset_fetch(self, request: dict[str, Any], client: Client) -> dict[str, Any]:
        known = self.cluster.offsets.get(request["group"], {})
        asked = request["topics"]
        if asked is None:
            asked = [{"name": name, "partitions": sorted(partitions)} for name, partitions in known.items()]
        try:
            self._coordinate(request["group"])
            if self._hidden(request["group"], client):
                raise Refused(GROUP_AUTHORIZATION_FAILED, f"no right to describe {request['group']!r}")
        except Refused as refused:
            return {"throttle_ms": 0, "topics": [], "error": refused.error}
        topics = []
        for topic in asked:
            partitions = []
            for index in topic["partitions"]:
                # A partition without a commit, and even a group that never was, is no error in the protocol.
                offset, metadata = known.get(topic["name"], {}).get(index, (-1, ""))
                partitions.append(
                    {"index": index, "offset": offset, "leader_epoch": -1, "metadata": metadata, "error": NONE}
                )
            topics.append({"name": topic["name"], "partitions": partitions})
        return {"throttle_ms": 0, "topics": topics, "error": NONE}

    async def list_groups(self, request: dict[str, Any], client: Client) -> dict[str, Any]:
        names = {*self.cluster.offsets, *(name for name, group in self.groups.items() if group.members)}
        mine = sorted(name for name in names if self.cluster.coordinator(name) == self.id)
        groups = [{"group": name, "protocol_type": self._group(name).protocol_type} for name in mine]
        return {"throttle_ms": 0, "error": NONE, "groups": groups}

    async def describe_groups(self, request: dict[str, Any], client: Client) -> dict[str, Any]:
        return {"throttle_ms": 0, "groups": [self._described(name, client) for name in request["groups"]]}

    def _hidden(self, name: str, client: Client) -> bool:
        """Without the right to Describe a group; the double knows nobody by name, so its members are told apart."""
        members = self._group(name).members.values()
        return name in self.cluster.private and client.id not in {member.client_id for member in members}

    def _described(self, name: str, client: Client) -> dict[str, Any]:
        group = self._group(name)
        known = bool(group.members) or name in self.cluster.offsets
        mine = self.cluster.coordinator(name) == self.id
        if mine and self._hidden(name, client):
            return {**_NOBODY, "error": GROUP_AUTHORIZATION_FAILED, "group": name}
        stable = group.state in ("Stable", "CompletingRebalance")
        members = [
            {
                "id": member.id,
                "instance_id": None,
                "client_id": member.client_id,
                "client_host": f"/{member.host}",
                "metadata": member.protocols.get(group.protocol, b"") if stable else b"",
                "assignment": member.assignment if stable else b"",
            }
            for member in group.members.values()
        ]
        return {
            "error": NONE if mine else NOT_COORDINATOR,
            "group": name,
            "state": group.state if known else "Dead",
            "protocol_type": group.protocol_type,
            "protocol": group.protocol if stable else "",
            "members": members if mine else [],
            "operations": NOT_ASKED,
        }

    async def delete_groups(self, request: dict[str, Any], client: Client) -> dict[str, Any]:
        groups = []
        for name in request["groups"]:
            error = NONE
            if self.cluster.coordinator(name) != self.id:
                error = NOT_COORDINATOR
            elif self._group(name).members:
                error = NON_EMPTY_GROUP
            elif self.cluster.offsets.pop(name, None) is None:
                error = GROUP_NOT_FOUND
            groups.append({"group": name, "error": error})
        self.cluster.save()
        return {"throttle_ms": 0, "groups": groups}


def each(
    topics: list[dict[str, Any]], act: Callable[[str, dict[str, Any]], dict[str, Any]], **otherwise: Any
) -> list[dict[str, Any]]:
    """``act`` on each partition that a request names; a refusal becomes that partition's error."""
    answers = []
    for topic in topics:
        partitions = []
        for asked in topic["partitions"]:
            try:
                done = {"error": NONE, **act(topic["name"], asked)}
            except Refused as refused:
                done = {"error": refused.error}
            partitions.append({**otherwise, "index": asked["index"], **done})
        answers.append({"name": topic["name"], "partitions": partitions})
    return answers


def outcome(act: Callable[..., None], *arguments: Any) -> dict[str, Any]:
    try:
        act(*arguments)
    except Refused as refused:
        return {"error": refused.error, "message": refused.message}
    return {"error": NONE, "message": None}
