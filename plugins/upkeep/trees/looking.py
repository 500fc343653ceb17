"""
Looking through a tree of files, whatever other processes do to it meanwhile.

They rename, write and swap directories for symbolic links. So every directory is opened by walking down from its
tree's own descriptor, never through a symbolic link.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote_to_bytes

from pydantic import ByteSize

MOST_ITEMS = 50_000
"""Of one tree in one run, oldest first: bounds memory and the stored plan (12 MB); the rest waits for the next run."""

EXAMPLES = 20

_PASS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PLAIN = "".join(chr(code) for code in range(32, 127) if chr(code) != "%")


@dataclass(frozen=True, slots=True)
class Item:
    """One file, or one directory with all it holds, that is to go."""

    path: str
    """Below its tree; bytes that are not printable ASCII, and ``%``, are written as ``%XX``."""

    rule: str
    """Why it goes: the name of its log class, or the pattern of temporary names."""

    kind: Literal["file", "directory"]
    size: int
    """Bytes as ``ls`` shows them; for a directory the sum."""

    frees: int
    """Bytes of disk that its going frees: blocks, and none while another hard link keeps them."""

    entries: int
    """1 for a file; for a directory, how many files and directories it holds, itself included."""

    newest_ns: int
    """Last write, nanoseconds since 1970; for a directory the newest of anything in it."""

    inode: int
    device: int


@dataclass(kw_only=True)
class TreePlan:
    """What is to go from one tree, and what stays."""

    tree: str
    """Its path on the host, as the platform file says it."""

    items: tuple[Item, ...] = ()
    due_files: int = 0
    due_bytes: int = 0
    """All that is due; more than ``items`` hold when there are more than ``MOST_ITEMS``."""

    files: int = 0
    bytes: int = 0
    """The set: all regular files of the tree."""

    stays: dict[str, int] = field(default_factory=dict)
    """How many stay for which reason: ``{"symbolic link": 1, "held": 2}``."""

    examples: dict[str, list[str]] = field(default_factory=dict)
    """Up to ``EXAMPLES`` paths per reason that deserve a look."""

    unreadable: list[str] = field(default_factory=list)
    """Directories that could not be looked into; ``"."`` is the tree itself."""

    problem: str = ""
    """Why the tree is none: it is not there, or not a directory. A mistake in the platform file or the mounts."""

    beyond: str = ""
    """Why the standing yes does not reach this far; nothing of the tree is deleted then."""

    def stay(self, reason: str, path: str | None = None) -> None:
        self.stays[reason] = self.stays.get(reason, 0) + 1
        if path is not None and len(shown := self.examples.setdefault(reason, [])) < EXAMPLES:
            shown.append(encode(path))


def encode(path: str) -> str:
    """A path as the kernel has it (newlines, broken UTF-8) in printable ASCII, so that JSON and logs can hold it."""
    return quote(os.fsencode(path), safe=_PLAIN)


def decode(path: str) -> str:
    """The other way round."""
    return os.fsdecode(unquote_to_bytes(path))


def size(number: float) -> str:
    """``1536`` → ``1.5KiB``."""
    return ByteSize(number).human_readable()


def _step(name: str, flags: int, directory: int) -> int:
    return os.open(name, flags, dir_fd=directory)


@contextmanager
def opened(top: int | Path, path: str, *, to_read: bool = True) -> Iterator[int]:
    """
    A descriptor of the directory ``path`` below ``top``, without following a single symbolic link below ``top``.

    :raises FileNotFoundError: it is not there. :raises NotADirectoryError: it, or one on the way, is no directory
        or a symbolic link. :raises PermissionError: it must not be read.
    """
    here = os.open(top, _PASS & ~os.O_NOFOLLOW) if isinstance(top, Path) else os.dup(top)
    try:
        parts = [part for part in path.split("/") if part]
        for part in parts[:-1]:
            here = _replace(here, _step(part, _PASS, here))
        last = _READ if to_read else _PASS
        here = _replace(here, _step(parts[-1] if parts else ".", last, here))
        yield here
    finally:
        os.close(here)


def _replace(old: int, new: int) -> int:
    os.close(old)
    return new


def walk(top: int, plan: TreePlan, *, skip: frozenset[str] = frozenset()) -> Iterator[tuple[str, os.stat_result]]:
    """
    Every regular file below ``top``: its path and what ``lstat`` says. What is left out is noted in ``plan``.

    :param skip: directories, relative to ``top``, that are not entered.
    """
    pending = [""]
    while pending:
        inside = pending.pop()
        try:
            with opened(top, inside) as directory, os.scandir(directory) as entries:
                for entry in entries:
                    path = f"{inside}/{entry.name}" if inside else entry.name
                    try:
                        seen = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if stat.S_ISDIR(seen.st_mode):
                        if path not in skip:
                            pending.append(path)
                    elif stat.S_ISREG(seen.st_mode):
                        yield path, seen
                    else:
                        plan.stay("symbolic link" if stat.S_ISLNK(seen.st_mode) else "special file", path)
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            # It was a directory a moment ago.
            plan.stay("symbolic link", inside)
        except OSError as refused:
            plan.unreadable.append(f"{encode(inside) or '.'}: {refused.strerror}")


def file_item(path: str, seen: os.stat_result, rule: str) -> Item:
    return Item(
        path=encode(path),
        rule=rule,
        kind="file",
        size=seen.st_size,
        frees=_frees(seen),
        entries=1,
        newest_ns=seen.st_mtime_ns,
        inode=seen.st_ino,
        device=seen.st_dev,
    )


def _frees(seen: os.stat_result) -> int:
    return seen.st_blocks * 512 if seen.st_nlink == 1 else 0


def directory_item(top: int, name: str, rule: str) -> Item:
    """
    One directory with all it holds, symbolic links and special files included (they go as what they are).

    :raises OSError: it, or a directory in it, cannot be read.
    """
    with opened(top, name) as directory:
        itself = os.fstat(directory)
    newest, total, frees, entries = itself.st_mtime_ns, 0, 0, 1
    pending = [name]
    while pending:
        inside = pending.pop()
        with opened(top, inside) as directory, os.scandir(directory) as found:
            for entry in found:
                seen = entry.stat(follow_symlinks=False)
                entries += 1
                newest = max(newest, seen.st_mtime_ns)
                if stat.S_ISDIR(seen.st_mode):
                    pending.append(f"{inside}/{entry.name}")
                else:
                    total += seen.st_size
                    frees += _frees(seen)
    return Item(
        path=encode(name),
        rule=rule,
        kind="directory",
        size=total,
        frees=frees,
        entries=entries,
        newest_ns=newest,
        inode=itself.st_ino,
        device=itself.st_dev,
    )


def plan_of(root: Path, tree: str, fill: Callable[[int, TreePlan], None]) -> TreePlan:
    """A plan for ``tree`` (a path on the host, seen below ``root``), filled by ``fill``, or saying what is wrong."""
    plan = TreePlan(tree=tree)
    try:
        with opened(root, tree) as top:
            fill(top, plan)
    except FileNotFoundError:
        plan.problem = f"there is no {tree} below {root}"
    except NotADirectoryError:
        plan.problem = f"{tree} below {root} is not a directory, or lies behind a symbolic link"
    except OSError as refused:
        plan.unreadable.append(f".: {refused.strerror}")
    return plan
