"""A primary lost on purpose, on real pairs with writers running: what the drill says is what the writers saw."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.conftest import run
from tests.pair_server import PairServer, running_pair, writers
from upkeep.drill import record
from upkeep.drill.canary import Beat, loss
from upkeep.drill.failover.act import Conduct, rehearse
from upkeep.drill.failover.local import LocalDriver
from upkeep.drill.failover.pair import DriverError, Scenario
from upkeep.drill.record import Drill
from upkeep.ledger import Ledger

KILL = Conduct("kill")


@pytest.fixture(scope="module")
def pair() -> Iterator[PairServer]:
    with running_pair(17) as server:
        yield server


def begin(ledger: Ledger, scenario: str = "kill") -> Drill:
    return record.begin(ledger, run(), "failover", scenario, "staging", rto_s=60, rpo_s=60)


def there(server: PairServer, writer: int) -> set[int]:
    return {row for (row,) in server(f"select number from writes where writer = {writer}")}


def drill_with_writers(server: PairServer, ledger: Ledger, conduct: Conduct, driver: Any = None) -> tuple[Drill, Any]:
    with writers(server) as writing:
        time.sleep(0.5)
        drill = begin(ledger, conduct.scenario)
        rehearse(drill, driver or server.driver(), conduct)
        time.sleep(0.3)
    drill.save(over=True)
    return drill, writing


def agrees(server: PairServer, drill: Drill, writing: Any) -> None:
    """The drill's figures are those of the writers' own logs, within a second."""
    assert drill.passed, (drill.reason, drill.verdicts)
    assert drill.rto_s is not None
    for one in writing:
        assert abs(one.gap() - drill.rto_s) < 1.0, (one.gap(), drill.rto_s)


def test_a_killed_primary_is_replaced_and_becomes_a_standby(pair: PairServer, ledger: Ledger) -> None:
    before = pair.left()
    old = pair.driver().look().primary
    drill, writing = drill_with_writers(pair, ledger, KILL)
    agrees(pair, drill, writing)
    assert drill.rpo_s is not None
    for one in writing:
        # One that follows at its own pace may miss the last moments.
        at, lost = dict(one.acknowledged), one.lost(there(pair, one.number))
        assert abs((at[lost[-1]] - at[lost[0]] if lost else 0.0) - drill.rpo_s) < 1.0
    now = pair.driver().look()
    assert now.primary.name != old.name
    assert now.primary.timeline == old.timeline + 1
    assert now[old.name].streaming_from is not None
    assert drill.facts["rejoined_by"] == "pg_rewind"
    assert {**pair.left(), "slots": 1} == {**before, "slots": 1}
    names = [phase.name for phase in drill.phases]
    assert names == ["steady", "fail", "notice", "promote", "serve", "rejoin", "settle", "count", "clean"]
    (row,) = ledger.rows("select * from drills")
    assert (row["act_verdict"], row["validation_verdict"], row["cleanup_verdict"]) == ("passed",) * 3
    assert (row["phase"], row["undo"], row["rto_s"]) == ("", [], drill.rto_s)


class Deaf(LocalDriver):
    """Its standby stops hearing from the primary before that dies, while commits go on: they are lost for certain."""

    def __init__(self, server: PairServer) -> None:
        super().__init__(server.nodes)
        self.server = server
        self.deaf_s = 0.0

    def fail(self, name: str, scenario: Scenario) -> None:
        ((pid,),) = self.server.superuser("select pid from pg_stat_replication")
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        while self.server.superuser("select count(*) from upkeep.drill_canary")[0][0] < 25:
            time.sleep(0.05)
        self.deaf_s = time.monotonic() - began
        super().fail(name, scenario)


def test_rows_that_are_lost_are_counted_and_their_window_is_the_writers(pair: PairServer, ledger: Ledger) -> None:
    driver = Deaf(pair)
    drill, writing = drill_with_writers(pair, ledger, KILL, driver)
    assert drill.passed, drill.reason
    assert drill.facts["canary"]["lost"] > 0
    assert drill.rpo_s is not None
    for one in writing:
        lost = one.lost(there(pair, one.number))
        assert lost
        at = dict(one.acknowledged)
        window = at[lost[-1]] - at[lost[0]]
        assert abs(window - drill.rpo_s) < 1.0, (window, drill.rpo_s, driver.deaf_s)


def test_with_synchronous_commit_nothing_acknowledged_is_lost(pair: PairServer, ledger: Ledger) -> None:
    for node in pair.nodes:
        pair.superuser("alter system set synchronous_standby_names = '*'", node.name)
        pair.superuser("select pg_reload_conf()", node.name)
    try:
        drill, writing = drill_with_writers(pair, ledger, KILL)
        assert drill.passed, drill.reason
        assert (drill.rpo_s, drill.facts["canary"]["lost"]) == (0.0, 0)
        for one in writing:
            assert one.acknowledged
            assert one.lost(there(pair, one.number)) == []
    finally:
        for node in pair.nodes:
            pair.superuser("alter system reset synchronous_standby_names", node.name)
            pair.superuser("select pg_reload_conf()", node.name)


class Mute(LocalDriver):
    """Whoever is told to promote the standby does not."""

    def promote(self, name: str) -> None:
        pass


@pytest.mark.soak
def test_a_standby_that_is_not_promoted_breaks_it_off_and_the_primary_is_back(pair: PairServer, ledger: Ledger) -> None:
    before, old = pair.left(), pair.driver().look().primary
    drill = begin(ledger)
    rehearse(drill, Mute(pair.nodes), replace(KILL, gap_s=3))
    assert drill.verdicts == {"act": "failed", "validation": "passed", "cleanup": "passed"}
    assert "was not promoted: still a standby" in drill.reason
    assert drill.facts["deviations"] == [f"broken off: {old.name} started again"]
    assert pair.driver().look().primary.name == old.name
    assert pair.left() == before


@pytest.mark.soak
def test_what_cannot_be_rewound_is_copied_anew(
    pair: PairServer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.superuser("revoke execute on function pg_read_binary_file(text, bigint, bigint, boolean) from upkeep")
    try:
        drill = begin(ledger)
        rehearse(drill, pair.driver(), KILL)
    finally:
        pair.superuser("grant execute on function pg_read_binary_file(text, bigint, bigint, boolean) to upkeep")
    assert drill.passed, drill.reason
    assert drill.facts["rejoined_by"] == "a fresh base backup"
    assert pair.left()["whole"] == ""


@pytest.mark.soak
def test_two_primaries_are_left_alone(pair: PairServer) -> None:
    driver = pair.driver()
    heir = driver.look().standbys[0].name
    driver.promote(heir)
    until = time.monotonic() + 30
    while len(driver.look().primaries) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    with pytest.raises(DriverError, match=r"(?s)two primaries.*HINT: decide which one is right"):
        driver.mend(heir)
    old = next(one.name for one in driver.look().servers if one.name != heir)
    driver.fail(old, "kill")
    assert driver.mend(heir) == [f"{old} made a standby by pg_rewind"]
    assert pair.left()["whole"] == ""


@pytest.mark.soak
@pytest.mark.parametrize("version", [15, 17, 18])
def test_ten_in_a_row_leave_nothing(ledger: Ledger, version: int) -> None:
    with running_pair(version) as server:
        usual = None
        for number in range(10):
            drill, writing = drill_with_writers(server, ledger, Conduct("switchover" if number % 5 == 4 else "kill"))
            agrees(server, drill, writing)
            now = server.left()
            assert usual in (None, now)
            usual = now


# -- counting ----------------------------------------------------------------------------------------------


def beats(*acknowledged: bool) -> list[Beat]:
    from datetime import UTC, datetime

    at = datetime.now(UTC)
    return [Beat(n, at, n / 10, n / 10 + 0.01, said) for n, said in enumerate(acknowledged, 1)]


def test_the_loss_is_what_was_acknowledged_and_is_not_there() -> None:
    log = beats(True, True, True, True, False, False, True, True)
    assert loss(log, {1, 2, 3, 4, 7, 8}, failed_s=0.45, gone_s=0.45).lost == 0
    found = loss(log, {1, 2, 6, 7, 8}, failed_s=0.45, gone_s=0.45)
    assert (found.acknowledged, found.lost, found.unsure) == (6, 2, 1)
    assert found.window_s == pytest.approx(0.25)
    assert found.away_s == pytest.approx(0.26)
    # It was about to fail, and went on for two rows.
    assert loss(log, {1, 2, 3, 4, 7, 8}, failed_s=0.25, gone_s=0.45).away_s == pytest.approx(0.71 - 0.41)
    assert loss(beats(True, False, False), {1}, failed_s=0.15, gone_s=0.15).away_s is None
    assert loss([], set(), failed_s=0.0, gone_s=0.0).window_s == 0.0
