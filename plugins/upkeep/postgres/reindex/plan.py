"""What the coming monthly windows would rebuild, as things stand now; looks, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from upkeep.plan import Asked, Planned, Slot
from upkeep.postgres.reindex import history, leftovers
from upkeep.postgres.reindex.choose import Candidate, Choice, choose, packed
from upkeep.postgres.session import connect
from upkeep.report.wording import size

LOOK = timedelta(seconds=0.5)
"""Into suspects; the window itself takes its time."""

REINDEX = "REINDEX INDEX CONCURRENTLY"
DROP = "DROP INDEX CONCURRENTLY"
LOCKS = "ShareUpdateExclusive on its table; reads and writes go on, VACUUM and DDL of it wait"


def coming(asked: Asked) -> list[Planned]:
    """What the monthly windows would do, in the order of doing."""
    slots, settings = asked.windows("monthly"), asked.platform.postgres
    if not slots or settings is None:
        return []
    name = asked.platform.name
    known = history.baselines(asked.ledger, name) if asked.ledger else {}
    speed = history.speed(asked.ledger, name) if asked.ledger else history.Speed(history.COLD_START, {})
    with connect(asked.maintenance) as connection:
        choice = choose(connection, settings.reindex, known, speed, look_for=LOOK, analyze=False)
    return [*_leftovers(asked, slots[0]), *_rebuilds(slots, choice), *_left_out(slots[0], choice)]


def _leftovers(asked: Asked, slot: Slot) -> Iterator[Planned]:
    if not asked.owner:
        return
    with connect(asked.owner) as connection:
        for one in leftovers.ours(leftovers.find(connection)):
            because = "left by a rebuild that was interrupted"
            yield Planned(
                slot=slot, object=one.index, act=DROP, seconds=history.OVERHEAD_S, bytes=one.bytes, locks=LOCKS,
                because=because,
            )  # fmt: skip


def _rebuilds(slots: Sequence[Slot], choice: Choice) -> Iterator[Planned]:
    waiting: Sequence[Candidate] = choice.candidates
    for slot in slots:
        marked = packed(waiting, slot.length)
        yield from (_planned(slot, one) for one in marked if one.fits)
        waiting = [one for one in marked if not one.fits]
    yield from (_planned(slots[-1], one, "the window has no room for it") for one in waiting)


def _planned(slot: Slot, one: Candidate, left_out: str = "") -> Planned:
    because = f"{one.bloat:.0%} of {size(one.bytes)} would be freed (by {one.by})"
    return Planned(
        slot=slot, object=one.index, act=REINDEX, seconds=one.seconds, bytes=one.work_bytes, locks=LOCKS,
        because=because, left_out=left_out,
    )  # fmt: skip


def _left_out(slot: Slot, choice: Choice) -> Iterator[Planned]:
    def without(index: str, because: str, left_out: str) -> Planned:
        return Planned(
            slot=slot, object=index, act=REINDEX, seconds=None, bytes=None, locks=LOCKS, because=because,
            left_out=left_out,
        )  # fmt: skip

    for one in choice.forbidden:
        yield _planned(slot, one, "this role may not; `python -m upkeep check` names the grant")
    for index, days in choice.refilled.items():
        yield without(index, f"bloated again {days:.1f} days after its rebuild", "rebuilt a short time ago")
    for index in choice.disappointing:
        yield without(index, "bloated", "its last rebuild freed less than half of what was expected")
    for index in choice.unconfirmed:
        yield without(index, "large, and not looked into yet", "decided in the window, when it has been looked into")
