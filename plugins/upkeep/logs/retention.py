"""Which log files are due by the classes of the platform file, and what to say about it."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache, partial
from pathlib import Path

from upkeep.errors import SettingsError
from upkeep.findings import Outcome, Severity
from upkeep.platforms.services import Hosts, LogTree
from upkeep.trees.deleting import Deleted
from upkeep.trees.looking import MOST_ITEMS, Item, TreePlan, file_item, plan_of, walk
from upkeep.trees.telling import tell
from upkeep.trees.usual import Usual, beyond_share, beyond_usual

CHECK = "logs"
SEVERITY = Severity.P2


def plan(
    hosts: Hosts,
    root: Path,
    now: datetime,
    usual: Mapping[str, Usual] | None = None,
    *,
    most_items: int = MOST_ITEMS,
) -> list[TreePlan]:
    """
    What is due in each log tree; nothing is touched.

    :param root: where the hosts' file system is seen: ``/``, or a mount such as ``/host``.
    :param usual: by tree, what would be usual today; none before there is a history.
    """
    paths = [tree.path for tree in hosts.logs]
    plans = []
    for tree in hosts.logs:
        # A tree inside this one has classes of its own.
        inner = frozenset(path[len(tree.path.rstrip("/")) + 1 :] for path in paths if _inside(path, tree.path))
        made = plan_of(root, tree.path, partial(_fill, tree=tree, now=now, inner=inner, most=most_items))
        made.beyond = beyond_share(made, hosts.most_share) or beyond_usual(
            made, hosts.most_times_usual, (usual or {}).get(tree.path)
        )
        plans.append(made)
    return plans


def _inside(path: str, tree: str) -> bool:
    return path != tree and path.startswith(tree.rstrip("/") + "/")


def _fill(top: int, plan: TreePlan, *, tree: LogTree, now: datetime, inner: frozenset[str], most: int) -> None:
    # Keeps the oldest in memory, however many are due.
    due = _due(top, plan, tree, int(now.timestamp() * 1e9), inner)
    plan.items = tuple(heapq.nsmallest(most, due, key=lambda item: (item.newest_ns, item.path)))


def _due(top: int, plan: TreePlan, tree: LogTree, now_ns: int, inner: frozenset[str]) -> Iterator[Item]:
    for path, seen in walk(top, plan, skip=inner):
        plan.files += 1
        plan.bytes += seen.st_size
        if (rule := _rule(tree, path, now_ns - seen.st_mtime_ns, plan)) is not None:
            plan.due_files += 1
            plan.due_bytes += seen.st_size
            yield file_item(path, seen, rule)


def _rule(tree: LogTree, path: str, age_ns: int, plan: TreePlan) -> str | None:
    """The name of the class by which a file is due; None when it stays, and ``plan`` then knows why."""
    if any(holds(hold, path) for hold in tree.holds):
        plan.stay("held", path)
        return None
    kind = next((kind for kind in tree.classes if matches(kind.pattern, path)), None)
    if kind is None:
        plan.stay("in no class", path)
    elif kind.keep == "forever":
        plan.stay("kept forever")
    elif age_ns <= kind.keep.total_seconds() * 1e9:
        plan.stay("not old enough")
    else:
        return kind.name
    return None


def matches(pattern: str, path: str) -> bool:
    """
    Whether a path below the tree matches a shell pattern.

    ``*`` and ``?`` stop at ``/``, ``**`` does not, ``**/x`` also means ``x`` itself; a leading dot is nothing special.
    """
    return _regex(pattern).fullmatch(path) is not None


def holds(pattern: str, path: str) -> bool:
    """Whether a hold reaches a path: it matches the path, or a directory in which the path lies."""
    parts = path.split("/")
    return any(matches(pattern.rstrip("/"), "/".join(parts[:count])) for count in range(1, len(parts) + 1))


_TOKEN = re.compile(r"(?:\*\*/)+|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)
_WILD = {"**": ".*", "*": "[^/]*", "?": "[^/]"}


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    """:raises SettingsError: a character class is none, as ``[z-a]``."""
    made = []
    for token in _TOKEN.findall(pattern):
        if token.startswith("**/"):
            made.append("(?:.*/)?")
        elif token in _WILD:
            made.append(_WILD[token])
        elif len(token) > 2:
            negated = "^" if token[1] == "!" else ""
            inside = re.sub(r"([\\\[^&~|])", r"\\\1", token[1 + len(negated) : -1])
            made.append(f"(?!/)[{negated}{inside}]")
        else:
            made.append(re.escape(token))
    try:
        return re.compile("".join(made), re.DOTALL)
    except re.error as wrong:
        raise SettingsError(
            f"not a shell pattern: {pattern!r}: {wrong}", hint="correct it under `hosts.logs` in the platform file."
        ) from None


def outcome(plan: TreePlan, done: Deleted | None, *, plan_id: str) -> Outcome:
    """What to say about one tree; ``done`` is None for a dry run, or when nothing was begun."""
    return tell(plan, done, check=CHECK, severity=SEVERITY, object=plan.tree, section="hosts.logs", plan_id=plan_id)
