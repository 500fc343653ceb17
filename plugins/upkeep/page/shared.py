"""Many who ask the same at once get one answer."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from threading import Lock
from typing import Any


class Shared:
    """
    Works one answer out at a time for each question, and gives it to all who asked before it was begun.

    Nobody gets an answer older than their question, so nothing needs to expire; however many ask, each waits at most
    for the one under way and the one after it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._under_way: dict[Hashable, Future[Any]] = {}
        self._following: dict[Hashable, Future[Any]] = {}

    def ask(self, question: Hashable, work: Callable[[], Any]) -> Any:
        """:raises Exception: what ``work`` raised, for all who share it."""
        with self._lock:
            earlier = self._under_way.get(question)
            if earlier is None:
                mine, leads = Future[Any](), True
                self._under_way[question] = mine
            else:
                leads = question not in self._following
                mine = self._following.setdefault(question, Future())
        if leads:
            if earlier is not None:
                wait([earlier])
            self._answer(question, mine, work)
        return mine.result()

    def _answer(self, question: Hashable, mine: Future[Any], work: Callable[[], Any]) -> None:
        try:
            found = work()
        except BaseException as failed:
            self._over(question)
            mine.set_exception(failed)
        else:
            self._over(question)
            mine.set_result(found)

    def _over(self, question: Hashable) -> None:
        """From now on nobody joins it; who came meanwhile are next."""
        with self._lock:
            if following := self._following.pop(question, None):
                self._under_way[question] = following
            else:
                del self._under_way[question]
