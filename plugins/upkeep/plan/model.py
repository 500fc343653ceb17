"""What a job is asked about its coming windows, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from upkeep.ledger import Ledger
    from upkeep.platforms import Platform


@dataclass(frozen=True)
class Slot:
    """One coming window."""

    name: str
    """``daily``, ``weekly``, ``monthly`` …"""

    starts: datetime
    length: timedelta


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a job may use to say what it would do; nothing here is to be changed."""

    platform: Platform
    slots: Sequence[Slot]
    """All coming windows, the next first."""

    maintenance: str
    """libpq connection string of the maintenance role."""

    owner: str
    """… of the owner role; empty when there is no such connection."""

    ledger: Ledger | None
    """For what was done and learned before; None when it is away: then say what can be said without."""

    def windows(self, name: str) -> list[Slot]:
        """The coming windows of one cadence, the next first; there may be none within the days asked for."""
        return [slot for slot in self.slots if slot.name == name]


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One thing that a window would do, or leave out."""

    slot: Slot
    object: str
    """What it is done to: ``public.bookings``."""

    act: str
    """What is done, briefly, as the server would be told: ``VACUUM (ANALYZE)``."""

    seconds: float | None
    """Predicted; None when nobody can tell."""

    bytes: int | None
    """What it reads or rewrites; None when nobody can tell."""

    locks: str
    """The lock it takes and who would have to wait for it: ``ShareUpdateExclusive; reads and writes go on``."""

    because: str
    """Why it is due, with the numbers."""

    left_out: str = ""
    """Why it will not be done in this window although it is due; empty when it will."""


class Planner(Protocol):
    """A module ``plan.py`` of a capability, listed in ``upkeep.plan.gather.JOBS``."""

    def coming(self, asked: Asked) -> list[Planned]:
        """
        What the windows of this job would do as things stand now, in the order of doing.

        :raises psycopg.Error: the database cannot be asked. :raises UpkeepError: something else is missing.
        """
