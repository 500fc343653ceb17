"""
The act: a backup restored into isolation and proved, by the verification's own code, with a clock on every part.

The time to recover runs from the decision to the last good check; removing the copy comes after it. The loss is what
was written between the backup's snapshot (of a dump) or its last transaction (of a recovered cluster) and the decision.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from upkeep.backup import manifest, records, verification
from upkeep.backup.physical import archive, proving
from upkeep.backup.physical.archive import NEWEST, Target
from upkeep.backup.physical.source import BASES
from upkeep.backup.scratch import LeftError
from upkeep.backup.verification import Subject, Verdict
from upkeep.drill.record import Drill
from upkeep.errors import UpkeepError
from upkeep.ledger import Ledger
from upkeep.platforms.database import Query

Which = Literal["newest", "older", "point_in_time"]

PHASES = {
    "find": "find", "fetch": "fetch", "verify": "verify files", "start": "provision", "combine": "load",
    "restore": "load", "replay": "replay", "compare": "verify content", "indexes": "verify indexes",
    "check": "verify heaps and indexes", "read": "verify rows", "questions": "verify questions",
}  # fmt: skip
"""What the verification calls its parts, and what a drill calls them."""

RIGHT = frozenset({"rows", "digest", "sequence", "extension", "index", "query", "tables"})
"""Faults of content: it could be restored, and is not what it should be."""


class NothingError(UpkeepError):
    """There is no such backup."""


@dataclass(frozen=True)
class Chosen:
    """What will be restored."""

    subject: Subject
    physical: bool
    target: Target = NEWEST
    proof: str = "never verified"
    sha256: str = ""
    """Of its manifest."""


# -- choosing ----------------------------------------------------------------------------------------------


def choose(ledger: Ledger, subject: Subject, which: Which, *, physical: bool, lot: str) -> Chosen:
    """
    :param subject: without an id; ``prefix`` is that of dumps, or of the platform's clusters.
    :param physical: whether ``prefix`` holds base backups and their log.
    :param lot: what is drawn by, so that a second try takes the same one.
    :raises NothingError: there is none. :raises StoreError: the store is away.
    """
    draw = random.Random(lot)
    if which == "point_in_time":
        return _moment(subject, draw)
    prefix = subject.prefix + (BASES if physical else "")
    known = records.of(ledger, subject.platform, "cluster" if physical else "database")
    broken = {id for id, row in known.items() if "broken" in (row["bytes_state"], row["content_state"])}
    newest = verification.newest(subject.store, prefix)
    ids = [id for id in manifest.committed(subject.store, prefix) if id not in broken]
    # What is known to be broken nobody would take in earnest, and its loss is the larger for it.
    best = newest if newest in ids else max(ids, default="")
    others = sorted(id for id in ids if id != best)
    if which == "older" and not others:
        raise NothingError("there is no older backup", hint="the next drill finds one.")
    if not best:
        known_broken = f"; {len(broken)} are known to be broken" if broken else ""
        raise NothingError(
            f"no backup in {subject.store.url(prefix)} can be restored{known_broken}",
            hint="trigger the backup Dag now: there is nothing to recover from.",
        )
    id = best if which == "newest" else draw.choice(others)
    row: Mapping[str, Any] = known.get(id, {})
    proof = {"verified": "content-verified", "unchecked": "never verified"}[str(row.get("content_state", "unchecked"))]
    sha256 = str(row.get("manifest_sha256") or "")
    return Chosen(replace(subject, id=id, sha256=sha256), physical, proof=proof, sha256=sha256)


def _moment(subject: Subject, draw: random.Random) -> Chosen:
    """A second drawn by lot between the oldest base backup and the end of the log."""
    found = archive.look(subject.store, subject.prefix, subject.platform)
    ends = [archive.cluster(one).until for one in found.log]
    begins = [max(one.finished, archive.cluster(one).until) for one in found.bases]
    if not ends or not begins or max(ends) <= min(begins):
        raise NothingError(
            "no stretch of the log follows a base backup: no second can be recovered to",
            hint="look at the Dag `*_cluster_log`: it fetches the log.",
        )
    seconds = (max(ends) - min(begins)).total_seconds()
    target = Target(time=min(begins) + timedelta(seconds=draw.random() * seconds))
    base = archive.choose(found, target)
    return Chosen(replace(subject, id=base.id), physical=True, target=target)


# -- doing -------------------------------------------------------------------------------------------------


def rehearse(
    drill: Drill,
    pick: Callable[[], Chosen],
    parent: Path,
    queries: Sequence[Query],
    made: Callable[[Path, str], None],
    removed: Callable[[Path], None],
) -> Verdict | None:
    """
    Restore, prove, remove; fill in the drill.

    :param made: told of the throw-away directory, and which backup goes there, before there is anything in it.
    :returns: what the verification found; None when nothing could be restored at all.
    """
    decided, clock = datetime.now(UTC), time.monotonic()
    drill.facts["decided"] = decided.isoformat()
    try:
        with drill.phase("decide"):
            chosen = pick()
    except NothingError as nothing:
        drill.fail("act", nothing.message)
        drill.verdicts |= {"validation": "unknown", "cleanup": "passed"}
        return None
    except UpkeepError as trouble:
        _unknown(drill, trouble)
        return None
    subject = chosen.subject
    drill.facts["used"] = {"backup": subject.id, "proof": chosen.proof, "target": str(chosen.target)}
    provisioned: list[float] = []

    def begin(path: Path) -> None:
        provisioned.append(time.monotonic() - clock)
        drill.facts["place"] = str(path)
        made(path, subject.id)

    began = datetime.now(UTC)
    drill.watch("restore")
    try:
        if chosen.physical:
            verdict = proving.restore(subject, parent, queries, begin, removed, chosen.target)
        else:
            verdict = verification.restore(subject, parent, queries, begin, removed)
    except LeftError as left:
        drill.fail("cleanup", left.message)
        return None
    except (UpkeepError, OSError) as trouble:
        _unknown(drill, trouble)
        return None
    ended = time.monotonic() - clock
    _times(drill, verdict, began, provisioned, ended)
    drill.verdicts["cleanup"] = "passed"
    _judge(drill, chosen, verdict, decided)
    return verdict


def _unknown(drill: Drill, trouble: Exception) -> None:
    """Neither the backup nor the platform is to blame, as far as anybody knows."""
    drill.reason = getattr(trouble, "message", "") or str(trouble)
    drill.verdicts |= {"act": "unknown", "validation": "unknown", "cleanup": "passed"}


def _times(drill: Drill, verdict: Verdict, began: datetime, provisioned: Sequence[float], ended: float) -> None:
    seconds = dict(verdict.facts.get("seconds") or {})
    total = float(seconds.pop("total", 0.0))
    if provisioned and not verdict.facts.get("base") and verdict.manifest is not None:
        # A dump's manifest is read before there is a place for it.
        drill.timed("find", began, provisioned[0] - drill.phases[0].seconds)
    for name, value in seconds.items():
        drill.timed(PHASES.get(str(name), str(name)), verdict.began.get(name, began), value)
    drill.phases.sort(key=lambda one: one.began)
    if provisioned and total:
        drill.rto_s = round(provisioned[0] + total - float(seconds.get("find", 0.0)), 3)
        drill.timed("remove", began + timedelta(seconds=drill.rto_s), max(0.0, ended - drill.rto_s))


def _judge(drill: Drill, chosen: Chosen, verdict: Verdict, decided: datetime) -> None:
    facts = {name: value for name, value in verdict.facts.items() if name != "seconds"}
    drill.facts["restored"] = facts
    found = verdict.manifest
    if found is not None:
        objects = [{"role": one.role, "bytes": one.bytes, "sha256": one.sha256} for one in found.objects]
        drill.facts["used"] |= {
            "taken": found.started.isoformat(), "engine": found.engine, "bytes": found.size, "objects": objects[:20],
            "manifest_sha256": chosen.sha256 or hashlib.sha256(found.json_bytes()).hexdigest(),
        }  # fmt: skip
        source = found.database or found.cluster
        drill.source_bytes = source.source_bytes if source is not None else None
    if verdict.unknown:
        drill.reason = verdict.unknown
        drill.verdicts |= {"act": "unknown", "validation": "unknown"}
        drill.rto_s = None
        return
    drill.facts["faults"] = [[fault.kind, fault.said] for fault in verdict.faults[:50]]
    broken = [fault for fault in verdict.faults if fault.kind not in RIGHT]
    wrong = [fault for fault in verdict.faults if fault.kind in RIGHT]
    for part, faults in (("act", broken), ("validation", wrong)):
        drill.verdicts[part] = "failed" if faults else "passed"
        if faults:
            drill.fail(part, f"backup {chosen.subject.id}: {faults[0].said}")
    if broken:
        drill.verdicts["validation"] = "unknown"
    if verdict.faults:
        # Nothing that can be worked with was there at the end.
        drill.rto_s = None
    elif chosen.target == NEWEST and drill.scenario == "newest" and (until := _until(verdict, chosen)):
        drill.rpo_s = round((decided - until).total_seconds(), 1)
        drill.facts["data_until"] = until.isoformat()


def _until(verdict: Verdict, chosen: Chosen) -> datetime | None:
    """Everything committed by then is in what was restored."""
    if chosen.physical:
        if said := verdict.facts.get("until"):
            return datetime.fromisoformat(str(said))
        return archive.cluster(verdict.manifest).until if verdict.manifest else None
    return verdict.manifest.started if verdict.manifest else None
