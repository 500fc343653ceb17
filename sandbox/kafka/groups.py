"""Consumer groups as their coordinator sees them: members, generations, rebalances."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from sandbox.kafka.cluster import (
    ILLEGAL_GENERATION,
    INCONSISTENT_PROTOCOL,
    REBALANCE_IN_PROGRESS,
    UNKNOWN_MEMBER,
    Refused,
)

GATHER_S = 0.3
"""A new group waits this long for more members (``group.initial.rebalance.delay.ms``, 3 s on real brokers)."""


@dataclass
class Member:
    id: str
    client_id: str
    host: str
    session_s: float
    rebalance_s: float
    protocols: dict[str, bytes]
    seen: float = field(default_factory=time.monotonic)
    assignment: bytes = b""
    joined: asyncio.Future[dict[str, Any]] | None = None
    synced: asyncio.Future[bytes] | None = None


@dataclass
class Group:
    """One group. States as Kafka names them: Empty, PreparingRebalance, CompletingRebalance, Stable."""

    id: str
    state: str = "Empty"
    generation: int = 0
    protocol_type: str = ""
    protocol: str = ""
    leader: str = ""
    members: dict[str, Member] = field(default_factory=dict)
    _round: asyncio.Task[None] | None = None

    async def join(self, request: dict[str, Any], client_id: str, host: str) -> dict[str, Any]:
        """Wait for the rebalance, then say who is in. :raises Refused: unknown member or no common protocol."""
        protocols = {offered["name"]: offered["metadata"] for offered in request["protocols"]}
        others = [m for m in self.members.values() if m.id != request["member"]]
        if others and not set(protocols).intersection(*(m.protocols for m in others)):
            raise Refused(INCONSISTENT_PROTOCOL, "no common assignment protocol")
        member = self._member(request, client_id, host)
        member.protocols, member.seen = protocols, time.monotonic()
        self.protocol_type = request["protocol_type"]
        member.joined = member.joined or asyncio.get_running_loop().create_future()
        self.rebalance()
        return await asyncio.shield(member.joined)

    def _member(self, request: dict[str, Any], client_id: str, host: str) -> Member:
        if request["member"]:
            return self.known(request["member"])
        session_s = request["session_timeout_ms"] / 1000
        rebalance_s = request.get("rebalance_timeout_ms", request["session_timeout_ms"]) / 1000
        member = Member(f"{client_id}-{uuid.uuid4()}", client_id, host, session_s, rebalance_s, {})
        self.members[member.id] = member
        return member

    def known(self, member_id: str, generation: int | None = None) -> Member:
        """:raises Refused: no such member, or it lives in an older generation."""
        if member_id not in self.members:
            raise Refused(UNKNOWN_MEMBER, f"no member {member_id!r} in {self.id!r}")
        if generation is not None and generation != self.generation:
            raise Refused(ILLEGAL_GENERATION, f"generation {generation}, now {self.generation}")
        return self.members[member_id]

    def rebalance(self) -> None:
        """Ask everybody to join again, unless that is under way."""
        if self.state == "PreparingRebalance":
            return
        delay = GATHER_S if self.state == "Empty" else 0.0
        self.state = "PreparingRebalance"
        for member in self.members.values():
            if member.synced and not member.synced.done():
                _refuse(member.synced, Refused(REBALANCE_IN_PROGRESS, "rebalance"))
        self._round = asyncio.create_task(self._gather(delay))

    async def _gather(self, delay: float) -> None:
        await asyncio.sleep(delay)
        deadline = time.monotonic() + max((m.rebalance_s for m in self.members.values()), default=0.0)
        while any(m.joined is None for m in self.members.values()) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        self.members = {id: member for id, member in self.members.items() if member.joined}
        self.generation += 1
        if not self.members:
            self.state = "Empty"
            return
        self.state = "CompletingRebalance"
        if self.leader not in self.members:
            self.leader = next(iter(self.members))
        common = set.intersection(*(set(member.protocols) for member in self.members.values()))
        self.protocol = next(name for name in self.members[self.leader].protocols if name in common)
        everybody = [{"id": m.id, "metadata": m.protocols[self.protocol]} for m in self.members.values()]
        for member in self.members.values():
            member.synced = asyncio.get_running_loop().create_future()
            joined, member.joined, member.seen = member.joined, None, time.monotonic()
            if joined and not joined.done():
                joined.set_result(
                    {
                        "generation": self.generation,
                        "protocol": self.protocol,
                        "leader": self.leader,
                        "member": member.id,
                        "members": everybody if member.id == self.leader else [],
                    }
                )

    async def sync(self, request: dict[str, Any]) -> bytes:
        """The member's assignment, once the leader has sent everybody's. :raises Refused: out of step."""
        member = self.known(request["member"], request["generation"])
        if self.state == "PreparingRebalance":
            raise Refused(REBALANCE_IN_PROGRESS, "rebalance")
        if self.state == "Stable":
            return member.assignment
        if member.id == self.leader:
            given = {entry["member"]: entry["assignment"] for entry in request["assignments"]}
            for other in self.members.values():
                other.assignment = given.get(other.id, b"")
                if other.synced and not other.synced.done():
                    other.synced.set_result(other.assignment)
            self.state = "Stable"
        assert member.synced is not None
        return await asyncio.shield(member.synced)

    def heartbeat(self, member_id: str, generation: int) -> None:
        """:raises Refused: unknown member, old generation, or it must join again."""
        self.known(member_id, generation).seen = time.monotonic()
        if self.state == "PreparingRebalance":
            raise Refused(REBALANCE_IN_PROGRESS, "rebalance")

    def leave(self, member_id: str) -> None:
        """:raises Refused: unknown member."""
        self.known(member_id)
        self._lose(member_id)

    def expire(self) -> None:
        """Members that sent no heartbeat within their session are out."""
        now = time.monotonic()
        for member in list(self.members.values()):
            if member.joined is None and now - member.seen > member.session_s:
                self._lose(member.id)

    def _lose(self, member_id: str) -> None:
        lost = self.members.pop(member_id)
        for waiting in (lost.joined, lost.synced):
            if waiting and not waiting.done():
                _refuse(waiting, Refused(UNKNOWN_MEMBER, "left"))
        if self.members:
            self.rebalance()
        elif self.state != "PreparingRebalance":
            self.state, self.generation = "Empty", self.generation + 1

    def may_commit(self, member_id: str, generation: int) -> None:
        """:raises Refused: a group with members takes commits from its members only."""
        if generation < 0 and not self.members:
            return
        self.known(member_id, generation).seen = time.monotonic()


def _refuse(waiting: asyncio.Future[Any], refused: Refused) -> None:
    waiting.set_exception(refused)
    # Looked at once here: the one who waited may be gone, and asyncio would complain that nobody did.
    waiting.exception()
