"""Probes run side by side: bounded, tried again, never taken for ok."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

from upkeep.findings import Outcome, Severity, ok
from upkeep.health.side_by_side import Probe, look_side_by_side
from upkeep.settings import ROOT


def fine(check: str) -> list[Outcome]:
    return [ok(check, Severity.P1, answer=42)]


def for_ever() -> list[Outcome]:
    threading.Event().wait()
    return []


def test_all_probes_run_at_once_and_answer_in_their_order() -> None:
    def slowly(check: str) -> list[Outcome]:
        time.sleep(0.3)
        return fine(check)

    began = time.monotonic()
    seen = look_side_by_side([Probe(name, Severity.P1, lambda name=name: slowly(name)) for name in "abcdefgh"])
    assert time.monotonic() - began < 1
    assert [outcome.check for outcome in seen] == list("abcdefgh")
    assert all(outcome.seconds >= 0.3 for outcome in seen)
    assert seen[0].facts == {"answer": 42}


def test_a_probe_that_hangs_is_unknown_at_the_deadline_and_the_others_are_heard() -> None:
    began = time.monotonic()
    seen = look_side_by_side(
        [
            Probe("stuck", Severity.P0, lambda: for_ever(), object="a"),
            Probe("fine", Severity.P1, lambda: fine("fine")),
        ],
        deadline_s=0.5,
    )
    assert time.monotonic() - began < 0.8
    assert (seen[0].state, seen[0].reason, seen[0].object) == ("unknown", "did not return within 0.5 s", "a")
    assert seen[0].worst == Severity.P0
    assert seen[0].seconds >= 0.5
    assert seen[1].state == "ok"


def test_a_probe_that_raises_once_is_tried_again() -> None:
    tries = []

    def look() -> list[Outcome]:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionResetError("once")
        return fine("flaky")

    assert look_side_by_side([Probe("flaky", Severity.P1, look)])[0].state == "ok"
    assert len(tries) == 2


def test_a_probe_that_always_raises_is_unknown_with_its_text_but_without_its_secret() -> None:
    tries = []

    def look() -> list[Outcome]:
        tries.append(1)
        raise OSError("cannot reach redis://user:hunter2@cache:6379,\npassword=hunter2")

    (seen,) = look_side_by_side([Probe("broken", Severity.P2, look, explained_by="other")], retry_after_s=0.01)
    assert len(tries) == 2
    assert seen.state == "unknown"
    assert seen.reason.startswith("OSError: cannot reach redis://user:***@cache:6379, password=***")
    assert "hunter2" not in seen.reason
    assert "\n" not in seen.reason
    assert seen.explained_by == "other"
    assert seen.worst is None


def test_there_is_no_second_try_when_no_time_is_left_for_it() -> None:
    tries = []

    def look() -> list[Outcome]:
        tries.append(1)
        time.sleep(0.3)
        raise OSError("late")

    (seen,) = look_side_by_side([Probe("late", Severity.P2, look)], deadline_s=0.4, retry_after_s=0.3)
    assert (seen.state, seen.reason) == ("unknown", "OSError: late")
    assert len(tries) == 1


def test_probes_may_come_from_a_generator_and_the_first_one_is_already_running() -> None:
    running = []

    def probes():  # type: ignore[no-untyped-def]
        yield Probe("first", Severity.P1, lambda: [running.append("first"), *fine("first")][1:])  # type: ignore[list-item]
        time.sleep(0.2)
        assert running == ["first"]
        yield Probe("second", Severity.P1, lambda: fine("second"))

    assert [outcome.state for outcome in look_side_by_side(probes())] == ["ok", "ok"]


def test_no_probes_no_outcomes() -> None:
    assert look_side_by_side([]) == []


def test_a_look_that_never_returns_does_not_keep_the_process_alive() -> None:
    code = (
        "import time\n"
        "from upkeep.findings import Severity\n"
        "from upkeep.health.side_by_side import Probe, look_side_by_side\n"
        "print(look_side_by_side([Probe('stuck', Severity.P1, lambda: time.sleep(300))], deadline_s=0.2)[0].state)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "plugins", capture_output=True, text=True, timeout=10, check=True
    )
    assert done.stdout.strip() == "unknown"
