"""The ``hosts`` section: log and temporary trees, and how long files in them stay."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, field_validator

from upkeep.platforms.base import AbsolutePath, Between, Duration, Name, Section, Share, distinct


class LogClass(Section):
    """Log files of one kind."""

    name: Name
    """What reports call it."""

    pattern: str = Field(min_length=1, max_length=200)
    """Shell pattern of the path below the tree: ``*.log``, ``audit/**``. The first class that matches counts."""

    keep: Duration | Literal["forever"]
    """Since the last write; ``forever`` never deletes."""

    @field_validator("pattern")
    @classmethod
    def _below(cls, value: str) -> str:
        if value.startswith("/") or ".." in value.split("/"):
            raise ValueError("a pattern stays below its tree")
        return value


class LogTree(Section):
    """A directory of logs on the platform's hosts."""

    path: AbsolutePath
    """On the hosts."""

    classes: tuple[LogClass, ...] = Field(min_length=1)
    """In order; files of no class are left alone."""

    holds: tuple[str, ...] = ()
    """Shell patterns under legal hold: never deleted, whatever their class says."""

    @field_validator("classes")
    @classmethod
    def _distinct(cls, value: tuple[LogClass, ...]) -> tuple[LogClass, ...]:
        return distinct(value, "name")


class TemporaryTree(Section):
    """A directory in which the application leaves temporary files."""

    path: AbsolutePath
    """On the hosts."""

    pattern: str = Field(min_length=1, max_length=200)
    """Shell pattern of the names that are ours: ``studyspot-*``."""

    older_than: Annotated[Duration, Between("1h", "10y")] = timedelta(days=1)
    """Since the last write."""

    @field_validator("pattern")
    @classmethod
    def _ours(cls, value: str) -> str:
        if "/" in value or value.strip("*?") == "":
            raise ValueError("a pattern names our own files directly below the path: studyspot-*")
        return value


class Hosts(Section):
    """Log and temporary trees; ``host_root`` in ``include/upkeep.yaml`` says where a worker sees them."""

    logs: tuple[LogTree, ...] = ()
    """Where logs lie, and how long they stay."""

    temporary: tuple[TemporaryTree, ...] = ()
    """Where temporary files lie."""

    most_share: Share = 0.5
    """The standing yes ends here: deleting more than this share of a set asks a person first."""

    most_times_usual: float = Field(default=3.0, ge=1, le=100)
    """… as does more than this many times what is usual."""
