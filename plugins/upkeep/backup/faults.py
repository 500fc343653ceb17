"""What can be wrong with a stored backup, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "manifest", "missing", "empty", "truncated", "longer", "changed", "unreadable", "key", "contents", "tables",
    "restore", "roles", "rows", "digest", "sequence", "extension", "index", "query", "gap", "recovery",
]  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """One thing that makes a backup worthless, or less than it says."""

    kind: Kind
    said: str
    """In one line, with names and numbers."""


def some(names: list[str], most: int = 5) -> str:
    """The first few of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
