"""For worker processes of tests: a function at which the process dies as if somebody had pulled the plug."""

from __future__ import annotations

import os
import signal
from typing import Any


def die_at(owner: Any, name: str, *, after: bool = False, count: int = 1) -> None:
    """SIGKILL when ``owner.name`` is called for the ``count``-th time, or when that call has ended."""
    original, calls = getattr(owner, name), [0]

    def dies(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == count and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        value = original(*arguments, **named)
        if calls[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    setattr(owner, name, dies)
