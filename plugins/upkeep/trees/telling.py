"""What to say about a tree of files: what is wrong with it, and what was done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from upkeep.findings import Finding, Outcome, Severity, judged, ok, unknown
from upkeep.trees.deleting import Deleted
from upkeep.trees.looking import TreePlan, size


def tell(
    plan: TreePlan,
    done: Deleted | None,
    *,
    check: str,
    severity: Severity,
    object: str,
    section: str,
    plan_id: str,
) -> Outcome:
    """
    What to say about one tree.

    :param done: what was deleted; None for a dry run, or when nothing was begun.
    :param object: what findings are about.
    :param section: of the platform file, for hints.
    """
    facts: dict[str, Any] = {
        "files": plan.files,
        "bytes": plan.bytes,
        "due_files": plan.due_files,
        "due_bytes": plan.due_bytes,
        "deleted_files": done.files if done else 0,
        "freed_bytes": done.bytes if done else 0,
        "stays": plan.stays,
        "examples": plan.examples,
        "left": done.left if done else {},
        "left_examples": done.examples if done else {},
        "plan": plan_id,
    }
    wrong = list(_wrong(plan, done, severity, section, plan_id))
    if plan.unreadable:
        unseen = f"{len(plan.unreadable)} directories cannot be read: {', '.join(plan.unreadable[:3])}"
        if not wrong:
            return unknown(check, severity, unseen, object=object, **facts)
        # A finding must not hide that part of the tree was not seen.
        wrong.append((severity, unseen, "Give the worker's user the right to read and enter them."))
    if not wrong:
        return ok(check, severity, object=object, **facts)
    # One finding per tree: its key is the check and the tree.
    finding = Finding(
        check=check,
        object=object,
        severity=min((how_bad for how_bad, _, _ in wrong), key=lambda how_bad: how_bad.rank),
        summary="; ".join(summary for _, summary, _ in wrong),
        hint=" ".join(hint for _, _, hint in wrong),
        facts={key: facts[key] for key in ("files", "bytes", "due_files", "due_bytes", "left", "plan")},
    )
    return judged(check, severity, [finding], object=object, **facts)


def _wrong(
    plan: TreePlan, done: Deleted | None, severity: Severity, section: str, plan_id: str
) -> Iterator[tuple[Severity, str, str]]:
    """Severity, fact and cure of everything that is not as it should be."""
    if plan.problem:
        yield (
            severity,
            plan.problem,
            f"Correct `{section}` in the platform file, or mount the hosts' file system there.",
        )
    if plan.beyond:
        yield (
            severity,
            f"nothing was deleted: {plan.beyond}, which is beyond the standing yes",
            f"Look at plan {plan_id} in the ledger; if it is right, say so by raising `hosts.most_share` or"
            " `hosts.most_times_usual` for one run.",
        )
    refused = {reason: count for reason, count in done.left.items() if reason not in ON_PURPOSE} if done else {}
    if done and refused:
        first = next(paths[0] for reason, paths in done.examples.items() if reason in refused)
        yield (
            severity,
            "files that are due could not be deleted: "
            + ", ".join(f"{count:,} {reason}" for reason, count in refused.items()),
            f"The worker's user needs the right to write to the directory of {first}.",
        )
    taken = sum(item.entries for item in plan.items)
    if done and plan.due_files > taken:
        yield (
            Severity.P4,
            f"{plan.due_files:,} files are due, this run took {taken:,} of them ({size(done.bytes)} freed)",
            "The next runs take the rest; run the task again to be faster.",
        )


ON_PURPOSE = ("changed", "in use")
"""Why something was left without anything being wrong; the next run looks at it again."""
