"""Deleting exactly what was planned: a file goes only while it is still the one that the plan saw."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from upkeep.ledger import Ledger, Plan, Run
from upkeep.trees.looking import EXAMPLES, Item, TreePlan, decode, directory_item, opened, walk

CHUNK = 1000
"""Files per action in the ledger: below a second of work."""

DOOMED = ".upkeep-deleting."
"""Prefix of a directory that is being deleted; found again after a crash."""


@dataclass(kw_only=True)
class Deleted:
    """What became of planned items."""

    files: int = 0
    bytes: int = 0
    """Disk space freed."""

    gone: int = 0
    """Items that somebody else had deleted."""

    left: dict[str, int] = field(default_factory=dict)
    """Items left alone, by reason: ``changed``, ``in use``, ``not permitted`` …"""

    examples: dict[str, list[str]] = field(default_factory=dict)

    def leave(self, reason: str, item: Item) -> None:
        self.left[reason] = self.left.get(reason, 0) + 1
        if len(shown := self.examples.setdefault(reason, [])) < EXAMPLES:
            shown.append(item.path)

    def add(self, other: Deleted) -> None:
        self.files += other.files
        self.bytes += other.bytes
        self.gone += other.gone
        for reason, count in other.left.items():
            self.left[reason] = self.left.get(reason, 0) + count
            shown = self.examples.setdefault(reason, [])
            shown += other.examples[reason][: EXAMPLES - len(shown)]


def plan_rows(plans: Sequence[TreePlan]) -> list[Mapping[str, Any]]:
    """The items of several trees as the ledger stores them."""
    return [
        {"tree": plan.tree, "waits_for_a_yes": bool(plan.beyond), **asdict(item)}
        for plan in plans
        for item in plan.items
    ]


def delete(top: int, items: Sequence[Item]) -> Deleted:
    """
    Delete ``items`` from the tree open as ``top``: each only while it is what was planned, and in nobody's use.

    Whatever stands in the way of one item is noted and the next one is tried.
    """
    done = Deleted()
    for item in items:
        parent, _, name = decode(item.path).rpartition("/")
        try:
            with opened(top, parent, to_read=False) as directory:
                reason = (_delete_file if item.kind == "file" else _delete_directory)(directory, name, item)
        except FileNotFoundError:
            done.gone += 1
            continue
        except NotADirectoryError:
            reason = "changed"
        except PermissionError:
            reason = "not permitted"
        except OSError as refused:
            reason = (refused.strerror or type(refused).__name__).lower()
        if reason:
            done.leave(reason, item)
        else:
            done.files += item.entries
            done.bytes += item.frees
    return done


def _delete_file(directory: int, name: str, item: Item) -> str:
    """``""``, or why it was left. :raises OSError: the kernel refused."""
    seen = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISREG(seen.st_mode) or (
        (seen.st_ino, seen.st_dev, seen.st_size, seen.st_mtime_ns)
        != (item.inode, item.device, item.size, item.newest_ns)
    ):
        return "changed"
    if in_use(directory, name):
        return "in use"
    os.unlink(name, dir_fd=directory)
    return ""


def _delete_directory(directory: int, name: str, item: Item) -> str:
    """``""``, or why it was left. :raises OSError: the kernel refused."""
    try:
        now = directory_item(directory, name, item.rule)
    except FileNotFoundError:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
        # The directory is there, so something in it has just gone.
        return "changed"
    if (now.inode, now.device, now.newest_ns, now.entries) != (item.inode, item.device, item.newest_ns, item.entries):
        return "changed"
    if any_in_use(directory, name):
        return "in use"
    if not name.startswith(DOOMED):
        # One step that cannot be half done: from here on nobody finds it by its name, and the next run finishes it.
        os.rename(name, DOOMED + name, src_dir_fd=directory, dst_dir_fd=directory)
        name = DOOMED + name
    # Follows no link: rmtree refuses to run where it could not work on descriptors.
    shutil.rmtree(name, dir_fd=directory)
    return ""


def in_use(directory: int, name: str) -> bool:
    """
    Whether any process of this kernel has the file open, in whatever container.

    The kernel grants a write lease only on a file that nobody else has open. Where leases or the right to take one
    are missing (network file systems, foreign owner) nobody can tell, and the age alone decides.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except PermissionError:
        return False
    try:
        # Somebody who opens it meanwhile makes the kernel signal us: not by SIGIO, which kills.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def any_in_use(top: int, name: str) -> bool:
    """Whether any file in the directory ``name`` is open somewhere."""
    with opened(top, name) as directory:
        for path, _ in walk(directory, TreePlan(tree=name)):
            parent, _, file = path.rpartition("/")
            with suppress(FileNotFoundError), opened(directory, parent, to_read=False) as inside:
                if in_use(inside, file):
                    return True
    return False


def apply(
    ledger: Ledger, run: Run, capability: str, root: Path, plan: TreePlan, stored: Plan, *, chunk: int = CHUNK
) -> Deleted:
    """
    Delete what was planned, each ``chunk`` one action of the ledger. Killed anywhere, the next run plans the rest.

    :raises OSError: the tree has gone since it was planned.
    """
    total = Deleted()
    if not plan.items:
        ledger.close_records(run, capability, ["delete"], lambda object: object == plan.tree, plan=stored)
        return total
    with opened(root, plan.tree, to_read=False) as top:
        for start in range(0, len(plan.items), chunk):
            items = plan.items[start : start + chunk]
            before = {"first": start, "files": len(items), "bytes": sum(item.frees for item in items)}
            with ledger.action(run, capability, "delete", plan.tree, plan=stored, before=before) as action:
                done = delete(top, items)
                action.after = asdict(done)
            total.add(done)
    return total
