"""Temporary files that the application left behind: ours by name, directly below one directory, and old."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from upkeep.findings import Outcome, Severity
from upkeep.platforms.services import Hosts, TemporaryTree
from upkeep.trees.deleting import DOOMED, Deleted
from upkeep.trees.looking import MOST_ITEMS, Item, TreePlan, directory_item, encode, file_item, plan_of
from upkeep.trees.telling import tell
from upkeep.trees.usual import Usual, beyond_usual

CHECK = "temporary_files"
SEVERITY = Severity.P2


def name_of(tree: TemporaryTree) -> str:
    """What findings and history call it: ``/tmp/studyspot-*``."""
    return f"{tree.path.rstrip('/')}/{tree.pattern}"


def plan(hosts: Hosts, root: Path, now: datetime, usual: Mapping[str, Usual] | None = None) -> list[TreePlan]:
    """
    What is due in each temporary tree, in their order; nothing is touched.

    All of a set may be old, for temporary files are meant to go; so only more than is usual asks a person, not a share.

    :param usual: by ``name_of(tree)``.
    """
    plans = []
    for tree in hosts.temporary:
        made = plan_of(root, tree.path, partial(_fill, tree=tree, now=now))
        made.beyond = beyond_usual(made, hosts.most_times_usual, (usual or {}).get(name_of(tree)))
        plans.append(made)
    return plans


def _fill(top: int, plan: TreePlan, *, tree: TemporaryTree, now: datetime) -> None:
    due: list[Item] = []
    newest_due_ns = int((now - tree.older_than).timestamp() * 1e9)
    with os.scandir(top) as entries:
        for entry in entries:
            doomed = entry.name.startswith(DOOMED)
            if not fnmatchcase(entry.name.removeprefix(DOOMED), tree.pattern):
                continue
            try:
                item = _item(top, entry, tree, plan)
            except FileNotFoundError:
                continue
            except OSError as refused:
                plan.unreadable.append(f"{encode(entry.name)}: {refused.strerror}")
                continue
            if item is None:
                continue
            plan.files += item.entries
            plan.bytes += item.size
            if not doomed and item.newest_ns >= newest_due_ns:
                plan.stay("not old enough")
                continue
            plan.due_files += item.entries
            plan.due_bytes += item.size
            if len(due) < MOST_ITEMS:
                due.append(item)
    plan.items = tuple(sorted(due, key=lambda item: (item.newest_ns, item.path)))


def _item(top: int, entry: os.DirEntry[str], tree: TemporaryTree, plan: TreePlan) -> Item | None:
    """None for what is never deleted. :raises OSError: it cannot be looked at."""
    seen = entry.stat(follow_symlinks=False)
    if stat.S_ISDIR(seen.st_mode):
        return directory_item(top, entry.name, tree.pattern)
    if stat.S_ISREG(seen.st_mode):
        return file_item(entry.name, seen, tree.pattern)
    plan.stay("symbolic link" if stat.S_ISLNK(seen.st_mode) else "special file", entry.name)
    return None


def outcome(tree: TemporaryTree, plan: TreePlan, done: Deleted | None, *, plan_id: str) -> Outcome:
    """What to say about one tree; ``done`` is None for a dry run, or when nothing was begun."""
    return tell(
        plan,
        done,
        check=CHECK,
        severity=SEVERITY,
        object=name_of(tree),
        section="hosts.temporary",
        plan_id=plan_id,
    )
