"""The act: steady state, the primary gone, a standby promoted, the rows counted, the old primary a standby again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from upkeep.drill import canary as canaries
from upkeep.drill.canary import Beat, Canary, CanaryError
from upkeep.drill.failover.pair import Driver, DriverError, Scenario, Server
from upkeep.drill.record import Drill
from upkeep.errors import UpkeepError
from upkeep.postgres.session import connect

log = logging.getLogger(__name__)

STEADY = 10
"""So many rows in a row are acknowledged before anything is done, and again afterwards."""

WHOLE_S = 30
"""A busy server may be slow to answer; one that is whole answers within this."""

PROBE_S = 0.1
PROBES = 3
"""So many times the primary must not answer before it counts as lost: what a person or a controller would wait for."""


@dataclass(frozen=True)
class Conduct:
    """How it is done, from ``recovery.drill`` of the platform file."""

    scenario: Scenario = "kill"
    every_s: float = 0.1
    gap_s: float = 300.0
    """For this long nothing may be written."""

    abort_errors: float = 0.05
    """Share of the canary's rows that may be refused outside that gap."""


@dataclass
class _Course:
    """What has happened so far, for whoever must put it right."""

    failed_s: float | None = None
    gone_s: float = 0.0
    promoted: str = ""


def rehearse(drill: Drill, driver: Driver, conduct: Conduct) -> None:
    """
    Do it all, and fill in the drill: verdicts, times, what was lost. It ends with the pair whole, or says it is not.

    :raises LedgerError: the ledger went away; the pair is mended all the same.
    """
    before = driver.look()
    was = before.primary
    drill.facts |= {"driver": driver.kind, "before": before.standing(), "primary": was.name}
    # On record before anything is written or broken: the janitor reads it.
    drill.remember({"kind": "pair", "primary": was.name})
    drill.remember({"kind": "canary"})
    canary = Canary(driver.conninfo(), drill.id, conduct.every_s)
    course = _Course()
    try:
        with canary:
            _course(drill, driver, conduct, canary, was, course)
    except (UpkeepError, psycopg.Error, OSError) as trouble:
        said = trouble.message if isinstance(trouble, UpkeepError) else " ".join(str(trouble).split())
        drill.fail("act", said)
        _mend(drill, driver, was.name)
    except BaseException:
        _mend(drill, driver, was.name)
        raise
    finally:
        canary.stop()
    if course.failed_s is not None:
        _judge(drill, driver, conduct, canary, course)
    _clean(drill, driver)


def _course(drill: Drill, driver: Driver, conduct: Conduct, canary: Canary, was: Server, course: _Course) -> None:
    with drill.phase("steady"):
        canary.wait(steadily(0.0), 30, f"{STEADY} rows in a row before anything is done")
    course.failed_s = time.monotonic()
    until = course.failed_s + conduct.gap_s
    with drill.phase("fail"):
        driver.fail(was.name, conduct.scenario)
    course.gone_s = time.monotonic()
    with drill.phase("notice"):
        _lost(driver, was.name, until)
        heir = _heir(driver, until)
        others = [one.name for one in driver.look().servers if one.name not in (was.name, heir.name)]
    with drill.phase("promote"):
        driver.promote(heir.name)
        new = _promoted(driver, heir.name, was.timeline, until)
    course.promoted = new.name
    drill.facts |= {"promoted": new.name, "timelines": [was.timeline, new.timeline]}
    with drill.phase("serve"):
        _writes(driver, drill, until)
    with drill.phase("rejoin"):
        drill.facts["rejoined_by"] = driver.rejoin(was.name, new.name)
        for other in others:
            driver.rejoin(other, new.name)
    with drill.phase("settle"):
        # Where commits wait for a standby, the application was away until the old primary was one.
        canary.wait(lambda beats: any(one.acknowledged and one.ended_s > course.gone_s for one in beats),
                    max(5.0, until - time.monotonic()), "the first row after the failure")  # fmt: skip
        canary.wait(steadily(time.monotonic()), 30, f"{STEADY} rows in a row afterwards")
    drill.verdicts["act"] = "passed"


def steadily(since_s: float) -> Callable[[Sequence[Beat]], bool]:
    """Whether the last rows since then were all acknowledged."""

    def enough(beats: Sequence[Beat]) -> bool:
        last = [one for one in beats if one.sent_s >= since_s][-STEADY:]
        return len(last) == STEADY and all(one.acknowledged for one in last)

    return enough


def _lost(driver: Driver, name: str, until: float) -> None:
    missed = 0
    while missed < PROBES:
        missed = 0 if driver.look()[name].up else missed + 1
        if time.monotonic() > until:
            raise DriverError(f"{name} still answers after it was made to fail", hint="who has started it again?")
        time.sleep(PROBE_S)


def _heir(driver: Driver, until: float) -> Server:
    """The standby that has received most of the log."""
    while not (standbys := driver.look().standbys):
        if time.monotonic() > until:
            raise DriverError("no standby answers that could be promoted", hint="look at the standbys' logs.")
        time.sleep(PROBE_S)
    return max(standbys, key=lambda one: [int(part, 16) for part in (one.place or "0/0").split("/")])


def _promoted(driver: Driver, name: str, timeline: int, until: float) -> Server:
    while True:
        found = driver.look()[name]
        if found.up and not found.standby and found.timeline > timeline:
            return found
        if time.monotonic() > until:
            raise DriverError(
                f"{name} was not promoted: {'still a standby' if found.standby else found.said or 'no new timeline'}",
                hint="its server's log says why; the drill puts back what was there.",
            )
        time.sleep(PROBE_S)


def _writes(driver: Driver, drill: Drill, until: float) -> None:
    """The new primary takes a row, whoever may have to wait for a standby."""
    while True:
        try:
            with connect(driver.conninfo() + " target_session_attrs=read-write") as connection:
                connection.execute("set synchronous_commit = local")
                connection.execute(canaries.INSERT, [drill.id, 0, drill.started])
            return
        except (psycopg.Error, UpkeepError) as refused:
            if time.monotonic() > until:
                raise CanaryError(
                    f"the new primary takes no rows: {' '.join(str(refused).split())[:200]}",
                    hint="its server's log says why.",
                ) from None
            time.sleep(PROBE_S)


def _judge(drill: Drill, driver: Driver, conduct: Conduct, canary: Canary, course: _Course) -> None:
    """What was lost, how long it was away, and whether that is what the log of the canary says."""
    assert course.failed_s is not None
    beats = list(canary.log)
    try:
        with drill.phase("count"):
            there = canaries.count(driver.conninfo() + " target_session_attrs=read-write", drill.id)
    except (UpkeepError, psycopg.Error) as away:
        drill.fail("validation", f"the rows could not be counted: {' '.join(str(away).split())[:200]}")
        return
    found = canaries.loss(beats, there, course.failed_s, course.gone_s or time.monotonic())
    drill.rto_s, drill.rpo_s = found.away_s, found.window_s
    drill.facts["canary"] = {
        "every_s": conduct.every_s,
        "written": len(beats),
        "acknowledged": found.acknowledged,
        "lost": found.lost,
        "unsure": found.unsure,
        "first_lost": found.first_lost.isoformat() if found.first_lost else None,
        "last_lost": found.last_lost.isoformat() if found.last_lost else None,
    }
    outside = [one for one in beats if not found.failed_s <= one.ended_s <= found.failed_s + (found.away_s or 1e9)]
    refused = sum(not one.acknowledged for one in outside)
    if found.away_s is None:
        drill.fail("act", "nothing could be written any more after the failure")
    if outside and refused / len(outside) > conduct.abort_errors:
        drill.fail("validation", f"{refused} of {len(outside)} rows were refused before or after the gap")
    drill.facts["after"] = driver.look().standing()
    if drill.verdicts["validation"] == "pending":
        drill.verdicts["validation"] = "passed"


def _mend(drill: Drill, driver: Driver, was: str) -> None:
    try:
        with drill.phase("mend"):
            for done in driver.mend(was):
                log.warning("broken off: %s", done)
                drill.deviates(f"broken off: {done}")
    except (UpkeepError, psycopg.Error, OSError) as trouble:
        drill.fail("cleanup", f"the pair is not whole: {' '.join(str(trouble).split())[:300]}")


def _clean(drill: Drill, driver: Driver) -> None:
    """No row of ours, and a whole pair."""
    try:
        with drill.phase("clean"):
            drill.facts["cleaned"] = clean(driver, drill.id)
    except (UpkeepError, psycopg.Error) as trouble:
        drill.fail("cleanup", " ".join(str(trouble).split())[:300])
    if drill.verdicts["cleanup"] == "pending":
        drill.verdicts["cleanup"] = "passed"
        drill.forget()


def clean(driver: Driver, id: int) -> dict[str, Any]:
    """Remove a drill's rows, and look whether the pair is whole. :raises DriverError: it is not."""
    rows = canaries.sweep(driver.conninfo() + " target_session_attrs=read-write", id)
    until = time.monotonic() + WHOLE_S
    while wrong := driver.ill():
        if time.monotonic() > until:
            raise DriverError(
                f"the pair is not whole: {wrong}", hint="look at the servers' logs; the janitor tries again."
            )
        time.sleep(PROBE_S)
    return {"rows": rows, "pair": str(driver.look())}
