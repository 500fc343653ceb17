"""Places in PostgreSQL's log, and the names of the segments that hold them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

NAME = re.compile(r"^([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})$")
HISTORY = re.compile(r"^([0-9A-F]{8})\.history$")


def number(lsn: str) -> int:
    """``0/3000060`` as bytes since the beginning of the log."""
    high, _, low = lsn.partition("/")
    return (int(high, 16) << 32) | int(low, 16)


def text(place: int) -> str:
    """``0/3000060``."""
    return f"{place >> 32:X}/{place & 0xFFFFFFFF:X}"


@dataclass(frozen=True, order=True)
class Segment:
    """One file of the log."""

    timeline: int
    number: int
    """Counted from the beginning of the log."""

    def name(self, size: int) -> str:
        """``000000010000000000000003``."""
        each = 2**32 // size
        return f"{self.timeline:08X}{self.number // each:08X}{self.number % each:08X}"

    def start(self, size: int) -> int:
        return self.number * size

    @classmethod
    def of(cls, name: str, size: int) -> Segment | None:
        """None for a name that is none of a segment."""
        found = NAME.fullmatch(name)
        if found is None:
            return None
        timeline, high, low = (int(part, 16) for part in found.groups())
        return cls(timeline, high * (2**32 // size) + low)

    @classmethod
    def at(cls, timeline: int, place: int, size: int) -> Segment:
        """The one that holds the byte at ``place``."""
        return cls(timeline, place // size)


@dataclass(frozen=True)
class Gap:
    """Segments between others that are not there."""

    first: Segment
    last: Segment

    def sentence(self, size: int) -> str:
        """``log segment 000000010000000000000003 (0/3000000 to 0/4000000)``."""
        start, end = text(self.first.start(size)), text(self.last.start(size) + size)
        if self.first == self.last:
            return f"log segment {self.first.name(size)} ({start} to {end})"
        count = self.last.number - self.first.number + 1
        return f"{count} log segments, {self.first.name(size)} to {self.last.name(size)} ({start} to {end})"


def gaps(found: Iterable[Segment], begin: Segment) -> list[Gap]:
    """
    What is missing between ``begin`` and the last segment that is there, by the arithmetic of names.

    After a failover the log goes on in the same place under the next timeline: a segment of a later one counts, one of
    an earlier one does not.
    """
    newest: dict[int, int] = {}
    for one in found:
        if one.number >= begin.number and one.timeline >= begin.timeline:
            newest[one.number] = max(newest.get(one.number, 0), one.timeline)
    missing: list[Gap] = []
    timeline = begin.timeline
    for place in range(begin.number, max(newest, default=begin.number - 1) + 1):
        if newest.get(place, 0) >= timeline:
            timeline = newest[place]
            continue
        here = Segment(timeline, place)
        if missing and missing[-1].last.number == place - 1:
            missing[-1] = Gap(missing[-1].first, here)
        else:
            missing.append(Gap(here, here))
    return missing
