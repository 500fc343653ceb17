"""A primary and its standbys, as they say they are; and what a driver must be able to do with them."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Protocol

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from upkeep.errors import UpkeepError
from upkeep.postgres.session import connect
from upkeep.settings import ROOT

Scenario = Literal["kill", "switchover"]

LOOK = timedelta(seconds=3)


class DriverError(UpkeepError):
    """The servers cannot be driven, or did not become what they should."""


@dataclass(frozen=True)
class Server:
    """One server of the pair, as it is now."""

    name: str
    up: bool
    standby: bool = False
    timeline: int = 0
    system_identifier: str = ""
    place: str = ""
    """Of its log: written by a primary, received by a standby."""

    streaming_from: tuple[str, int] | None = None
    """Host and port of whom it streams from; None when it does not."""

    said: str = ""
    """Why it is not up."""


@dataclass(frozen=True)
class Pair:
    """All servers, as they are now."""

    servers: tuple[Server, ...]

    @property
    def primaries(self) -> list[Server]:
        return [one for one in self.servers if one.up and not one.standby]

    @property
    def standbys(self) -> list[Server]:
        return [one for one in self.servers if one.up and one.standby]

    @property
    def primary(self) -> Server:
        """:raises DriverError: there is none, or more than one."""
        if len(self.primaries) != 1:
            raise DriverError(f"{len(self.primaries)} primaries: {self}", hint="look at the servers by hand.")
        return self.primaries[0]

    def __getitem__(self, name: str) -> Server:
        return next(one for one in self.servers if one.name == name)

    def ill(self, addresses: Mapping[str, tuple[str, int]]) -> str:
        """What is wrong with it; empty when one is primary and all others stream from it."""
        if down := [one for one in self.servers if not one.up]:
            return f"{down[0].name} does not answer: {down[0].said}"
        if len(self.primaries) != 1:
            return f"{len(self.primaries)} of {len(self.servers)} servers are primaries"
        primary = self.primary
        for one in self.standbys:
            if one.streaming_from is None:
                return f"{one.name} does not stream"
            if not same(one.streaming_from, addresses[primary.name]):
                return f"{one.name} streams from {one.streaming_from[0]}:{one.streaming_from[1]}, not {primary.name}"
        if len({one.system_identifier for one in self.servers}) > 1:
            return "the servers are not of one cluster: their system identifiers differ"
        return ""

    def standing(self) -> list[dict[str, object]]:
        """In plain values, for the record."""
        return [
            {
                "server": one.name,
                "role": "down" if not one.up else "standby" if one.standby else "primary",
                "timeline": one.timeline,
                "log": one.place,
                "streams": one.streaming_from is not None,
            }
            for one in self.servers
        ]

    def __str__(self) -> str:
        return ", ".join(
            f"{one.name} {'down' if not one.up else 'standby' if one.standby else 'primary'}" for one in self.servers
        )


class Driver(Protocol):
    """What promotes, stops and starts the servers of a pair."""

    kind: str

    def conninfo(self) -> str:
        """Of all servers; whoever connects asks for the primary by ``target_session_attrs``."""

    def look(self) -> Pair:
        """Every server asked, within seconds."""

    def ill(self) -> str:
        """What is wrong with the pair; empty when it is whole."""

    def fail(self, name: str, scenario: Scenario) -> None:
        """Take the primary away."""

    def promote(self, name: str) -> None:
        """Have a standby become the primary; returns before it is."""

    def rejoin(self, name: str, primary: str) -> str:
        """Make a server that was lost a standby again; how that was done. It streams when this returns."""

    def mend(self, was_primary: str) -> list[str]:
        """From wherever a dead drill left it: one primary and all others streaming from it. What was done."""


def look(conninfos: Mapping[str, str]) -> Pair:
    """Ask every server by name."""
    return Pair(tuple(_server(name, conninfo) for name, conninfo in conninfos.items()))


def _server(name: str, conninfo: str) -> Server:
    try:
        with connect(make_conninfo(conninfo, connect_timeout=2), statement_timeout=LOOK) as connection:
            row = connection.execute(_SQL).fetchone()
    except (psycopg.Error, UpkeepError) as refused:
        return Server(name, up=False, said=" ".join(str(refused).split())[:200])
    assert row is not None
    streams = row["status"] == "streaming" and row["sender_host"]
    return Server(
        name=name,
        up=True,
        standby=row["standby"],
        timeline=row["timeline"] or 0,
        system_identifier=row["system_identifier"],
        place=row["place"] or "",
        streaming_from=(row["sender_host"], int(row["sender_port"])) if streams else None,
    )


def same(one: tuple[str, int], other: tuple[str, int]) -> bool:
    """Whether two addresses, by name or by number, lead to the same server."""
    if one[1] != other[1]:
        return False
    try:
        ours, theirs = ({each[4][0] for each in socket.getaddrinfo(host, None)} for host in (one[0], other[0]))
    except OSError:
        return one[0] == other[0]
    return bool(ours & theirs)


def every(conninfos: Sequence[str]) -> str:
    """One connection string that leads to all of them."""
    parts = [conninfo_to_dict(one) for one in conninfos]
    return make_conninfo(
        conninfos[0],
        host=",".join(str(part.get("host") or "") for part in parts),
        port=",".join(str(part.get("port") or 5432) for part in parts),
    )


_SQL = (ROOT / "include" / "sql" / "drill" / "server.sql").read_text()
