"""What a run comes to, in one word, a few words, and one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from upkeep.report.model import DELETING, ECHOES, Area, Check, Deed, Gap, OpenFinding, Resolved, Task, Verdict
from upkeep.report.wording import counted, past, size

_THINGS = {"postgres": ("table", "tables"), "vacuum": ("table", "tables"), "retention": ("table", "tables")}
"""What a capability's actions work on, where one can say so; elsewhere its object is named by the capability."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """All that the verdict depends on."""

    findings: Sequence[OpenFinding]
    resolved: Sequence[Resolved]
    areas: Sequence[Area]
    gaps: Sequence[Gap]
    actions: Sequence[Deed]
    tasks: Sequence[Task]
    covered: int = 0
    """Tasks whose work another run has done."""

    @property
    def checks(self) -> list[Check]:
        return [check for area in self.areas for check in area.checks]

    @property
    def wrong(self) -> list[OpenFinding]:
        return [finding for finding in self.findings if finding.kind == "finding"]

    @property
    def unlooked(self) -> list[Check]:
        """Could not look, and no other finding explains why."""
        return [check for check in self.checks if check.state == "unknown" and not check.explained_by]

    @property
    def broken(self) -> list[Task]:
        """
        Tasks that failed for a reason of their own.

        A task that ends red because of what its checks saw did its work.
        """
        explained = {check.task_id for check in self.checks if check.state != "ok"} | set(ECHOES)
        return [task for task in self.tasks if task.state == "failed" and unmapped(task.task_id) not in explained]

    @property
    def undone(self) -> list[Deed]:
        """
        What was begun and not brought to its end.

        The last try counts: what failed and went well later is done.
        """
        last: dict[tuple[str, str, str], Deed] = {}
        for deed in sorted(self.actions, key=lambda d: d.started_at):
            last[deed.capability, deed.verb, deed.object] = deed
        return [deed for deed in last.values() if deed.state in ("failed", "abandoned", "open")]


def unmapped(task_id: str) -> str:
    """``vacuum[3]`` is the fourth instance of the mapped task ``vacuum``."""
    return task_id.partition("[")[0]


def judge(seen: Seen) -> Verdict:
    """Worst first: failed, findings, unknown; ok only when everything was looked at and nothing was wrong."""
    if seen.broken or seen.undone or any(check.check == "run" and check.state != "ok" for check in seen.checks):
        return "failed"
    if seen.wrong or any(check.state == "finding" for check in seen.checks):
        return "findings"
    if seen.unlooked or seen.gaps or seen.findings or not _left_a_trace(seen):
        return "unknown"
    return "ok"


def _left_a_trace(seen: Seen) -> bool:
    return bool(seen.checks or seen.actions or seen.covered)


def headline(seen: Seen, verdict: Verdict) -> str:
    """``2 findings, worst P1 Critical``."""
    if verdict == "failed":
        what = []
        if seen.broken:
            what.append(counted(len(seen.broken), "task") + " failed")
        if failed := sum(deed.state == "failed" for deed in seen.undone):
            what.append(counted(failed, "action") + " failed")
        if left := len(seen.undone) - failed:
            what.append(counted(left, "action") + " begun and never ended")
        return ", ".join(what) or "the run failed"
    if verdict == "findings":
        return _findings(seen)
    if verdict == "unknown":
        if not _left_a_trace(seen):
            return "the run left no trace"
        blind = len(seen.unlooked) + len(seen.gaps)
        return f"{counted(blind, 'thing')} could not be looked at" if blind else "something could not be looked at"
    return "all is well"


def sentence(seen: Seen, verdict: Verdict) -> str:
    """``2 findings, worst P1 Critical; 14 checks ok; 3 tables vacuumed, 12.4 MiB of logs deleted``."""
    parts = [headline(seen, verdict)] if verdict == "failed" else []
    parts.append(_findings(seen) if seen.wrong else "no findings")
    if seen.unlooked:
        parts.append(f"{counted(len(seen.unlooked), 'check')} could not look")
    if seen.gaps:
        parts.append(f"{counted(len(seen.gaps), 'gap')}")
    fine = sum(check.state == "ok" for check in seen.checks)
    parts.append(f"{counted(fine, 'check')} ok")
    if seen.resolved:
        parts.append(f"{counted(len(seen.resolved), 'finding')} repaired")
    if seen.covered:
        parts.append(f"{counted(seen.covered, 'task')} covered by another run")
    if done := deeds(seen.actions):
        parts.append(", ".join(done))
    return "; ".join(parts)


def deeds(actions: Sequence[Deed]) -> list[str]:
    """``["3 tables vacuumed", "12.4 MiB of logs deleted"]``; what was only played through is said to be that."""
    groups: dict[tuple[str, str, bool], list[Deed]] = {}
    for deed in actions:
        if deed.state == "done":
            groups.setdefault((deed.capability, _verb(deed), deed.dry_run), []).append(deed)
    said = []
    for (capability, verb, dry_run), done in groups.items():
        if what := _deletion(capability, verb, done) if verb in DELETING else _work(capability, verb, done):
            said.append(f"{what} (dry run)" if dry_run else what)
    return said


def _verb(deed: Deed) -> str:
    """What VACUUM's planner chose for a table is what was done to it: ``vacuum``, ``analyze`` or ``freeze``."""
    return str(deed.after.get("arm") or deed.verb)


def _deletion(capability: str, verb: str, done: Sequence[Deed]) -> str:
    if rows := [deed.after["deleted"] for deed in done if isinstance(deed.after.get("deleted"), int)]:
        return f"{counted(sum(rows), 'row')} {past(verb)}" if sum(rows) else ""
    if freed := sum(deed.bytes or 0 for deed in done):
        return f"{size(freed)} of {capability} {past(verb)}"
    files = [deed.after["files"] for deed in done if isinstance(deed.after.get("files"), int)]
    count = sum(files) if files else len(done)
    return f"{counted(count, f'item of {capability}', f'items of {capability}')} {past(verb)}" if count else ""


def _work(capability: str, verb: str, done: Sequence[Deed]) -> str:
    one, many = _THINGS.get(capability, (f"{capability} item", f"{capability} items"))
    return f"{counted(len({deed.object for deed in done}), one, many)} {past(verb)}"


def _findings(seen: Seen) -> str:
    wrong = seen.wrong
    if not wrong:
        return "findings that are repaired by now"
    worst = min(wrong, key=lambda finding: finding.level.severity)
    return f"{counted(len(wrong), 'finding')}, worst {worst.level.name}"
