"""A library that reads from one file and writes to another, as a step in a chain of iterators."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

WAITING = 4
"""Pieces that wait to be taken: with those on their way all the memory that it takes."""


class WorkError(Exception):
    """The library refused; what it said is the cause."""


class _Stopped(Exception):
    """Nobody wants the rest."""


class _Source:
    """What the library reads from."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces, self.rest = iter(pieces), memoryview(b"")
        self.trouble: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        while not self.rest:
            try:
                self.rest = memoryview(next(self.pieces))
            except StopIteration:
                return b""
            except BaseException as trouble:
                # The library would wrap it into something of its own.
                self.trouble = trouble
                raise
        taken = self.rest[: size if size > 0 else len(self.rest)]
        self.rest = self.rest[len(taken) :]
        return bytes(taken)


class _Target:
    """What the library writes to."""

    def __init__(self) -> None:
        self.pieces: queue.Queue[bytes | None] = queue.Queue(WAITING)
        self.stopped = threading.Event()

    def write(self, piece: Any) -> int:
        self.put(bytes(piece))
        return len(piece)

    def put(self, piece: bytes | None) -> None:
        while not self.stopped.is_set():
            with suppress(queue.Full):
                self.pieces.put(piece, timeout=0.1)
                return
        raise _Stopped

    def flush(self) -> None:
        """Nothing is held back."""


def through(pieces: Iterable[bytes], work: Callable[[Any, Any], Any]) -> Iterator[bytes]:
    """
    What ``work(source, target)`` makes of ``pieces``, as it comes; it works in a thread of its own.

    :raises WorkError: the library refused. What goes wrong in ``pieces`` is raised as it is.
    """
    source, target = _Source(pieces), _Target()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work(source, target)
        except BaseException as trouble:
            failed.append(trouble)
        with suppress(_Stopped):
            target.put(None)

    thread = threading.Thread(target=run, name="upkeep-through", daemon=True)
    thread.start()
    try:
        while (piece := target.pieces.get()) is not None:
            yield piece
        if source.trouble is not None:
            raise source.trouble
        if failed:
            raise WorkError(str(failed[0])) from failed[0]
    finally:
        target.stopped.set()
        thread.join()
