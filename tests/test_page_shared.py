"""Many who ask the same at once get one answer, and nobody one that is older than their question."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock
from typing import Any

import pytest

from upkeep.page.shared import Shared


class Work:
    """Counts itself, and waits until it is let go."""

    def __init__(self) -> None:
        self.lock, self.begun, self.go, self.count = Lock(), Event(), Event(), 0

    def __call__(self) -> int:
        with self.lock:
            self.count += 1
            number = self.count
        self.begun.set()
        assert self.go.wait(30)
        return number


def waiting(shared: Shared) -> int:
    return sum(len(future._condition._waiters) for future in shared._following.values())  # type: ignore[attr-defined]


def test_who_asks_while_an_answer_is_under_way_gets_the_next_one_all_the_same_one() -> None:
    shared, work = Shared(), Work()
    with ThreadPoolExecutor(60) as pool:
        first = pool.submit(shared.ask, "how", work)
        assert work.begun.wait(30)
        late = [pool.submit(shared.ask, "how", work) for _ in range(50)]
        other: Any = pool.submit(shared.ask, "another", lambda: "at once").result(30)
        assert other == "at once", "another question waits for nobody"
        while waiting(shared) < 49:  # the leader of the next waits for the first; the others for the leader
            pass
        work.go.set()
        assert first.result(30) == 1
        assert {one.result(30) for one in late} == {2}
    assert work.count == 2
    assert shared.ask("how", work) == 3, "nothing is kept"
    assert (shared._under_way, shared._following) == ({}, {})


def test_what_went_wrong_is_told_to_all_and_forgotten() -> None:
    shared = Shared()

    def fails() -> None:
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            shared.ask("how", fails)
    assert shared.ask("how", lambda: 1) == 1
