"""Named faults: each makes something really wrong in a running sandbox, and can be healed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sandbox.home import Home, SandboxError


@dataclass(frozen=True)
class Fault:
    """One way to be broken."""

    name: str
    """What the command line calls it: ``redis_down``."""

    doc: str
    """What is wrong then, in one line."""

    break_: Callable[[Home], None]
    heal: Callable[[Home], None]


FAULTS: dict[str, Fault] = {}


def fault(name: str, doc: str, *, break_: Callable[[Home], None], heal: Callable[[Home], None]) -> None:
    """Register a fault; server modules call this when imported."""
    if name in FAULTS:
        raise ValueError(f"two faults called {name!r}")
    FAULTS[name] = Fault(name, doc, break_, heal)


def break_it(home: Home, name: str) -> None:
    """:raises SandboxError: no such fault."""
    _fault(name).break_(home)
    with home.change() as state:
        state["broken"] = sorted({*state.get("broken", []), name})


def heal_it(home: Home, name: str) -> None:
    """:raises SandboxError: no such fault."""
    _fault(name).heal(home)
    with home.change() as state:
        state["broken"] = sorted({*state.get("broken", [])} - {name})


def _fault(name: str) -> Fault:
    try:
        return FAULTS[name]
    except KeyError:
        known = "\n".join(f"  {fault.name:32} {fault.doc}" for fault in FAULTS.values())
        raise SandboxError(f"no fault {name!r}; there are\n{known}") from None
