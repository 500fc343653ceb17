"""What the archive holds: base backups, stretches of the log, and what of it a recovery needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from upkeep.backup import manifest
from upkeep.backup.faults import Fault
from upkeep.backup.manifest import Cluster, Manifest, ManifestError
from upkeep.backup.physical.lsn import Gap, Segment, gaps, number
from upkeep.backup.physical.source import BASES, LOG
from upkeep.backup.store import Store
from upkeep.errors import UpkeepError

READERS = 8
"""Manifests that are read at once; each is a small object, and there may be thousands."""


class UnrecoverableError(UpkeepError):
    """It cannot be recovered, and what is wrong with it."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(fault.said for fault in faults[:3]), hint="use another base backup or target.")
        self.faults = tuple(faults)


@dataclass(frozen=True)
class Target:
    """How far to recover; the newest point where nothing is said."""

    time: datetime | None = None
    """Aware; transactions that committed by then are in."""

    lsn: str = ""
    """``0/3000060``."""

    name: str = ""
    """Of a restore point (``pg_create_restore_point``)."""

    def settings(self) -> dict[str, str]:
        """As PostgreSQL's."""
        if self.time is not None:
            return {"recovery_target_time": self.time.isoformat(sep=" ")}
        if self.lsn:
            return {"recovery_target_lsn": self.lsn}
        return {"recovery_target_name": self.name} if self.name else {}

    def __str__(self) -> str:
        if self.time is not None:
            return f"{self.time:%Y-%m-%d %H:%M:%S %Z}"
        return self.lsn or self.name or "the newest point"


NEWEST = Target()


@dataclass
class Archive:
    """All that counts, oldest first."""

    bases: list[Manifest] = field(default_factory=list)
    log: list[Manifest] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    """Of which the manifest says nothing that can be believed, and why."""


def look(store: Store, prefix: str, platform: str) -> Archive:
    """Read every manifest. :raises StoreError: the store is away."""
    found = Archive()
    for below, kept in ((BASES, found.bases), (LOG, found.log)):
        ids = manifest.committed(store, prefix + below)

        def read(id: str, below: str = below) -> Manifest | str:
            try:
                return manifest.read(store, prefix + below, id, platform=platform)
            except ManifestError as wrong:
                return wrong.message

        with ThreadPoolExecutor(READERS, thread_name_prefix="manifest") as pool:
            for id, one in zip(ids, pool.map(read, ids), strict=True):
                if isinstance(one, str):
                    found.unread[id] = one
                elif one.cluster is not None:
                    kept.append(one)
        kept.sort(key=lambda one: (one.finished, one.id))
    return found


def cluster(found: Manifest) -> Cluster:
    assert found.cluster is not None
    return found.cluster


def choose(found: Archive, target: Target) -> Manifest:
    """The base backup that is nearest before the target. :raises UnrecoverableError: there is none."""
    usable = [
        one
        for one in found.bases
        if (target.time is None or (cluster(one).until <= target.time and one.finished <= target.time))
        and (not target.lsn or number(cluster(one).end) <= number(target.lsn))
    ]
    # The name of a restore point does not say when it was made: the newest base that is older than it must be named.
    if not usable:
        oldest = f"; the oldest is of {found.bases[0].finished:%Y-%m-%d %H:%M:%S} UTC" if found.bases else ""
        raise UnrecoverableError([Fault("missing", f"no base backup is older than {target}{oldest}")])
    return usable[-1]


def chain(found: Archive, base: Manifest) -> list[Manifest]:
    """The full base backup first, then what was built on it. :raises UnrecoverableError: one of them is gone."""
    by_id = {one.id: one for one in found.bases}
    made = [base]
    while earlier := str(made[0].facts.get("base") or ""):
        if earlier not in by_id:
            why = found.unread.get(earlier, "it is not in the archive")
            raise UnrecoverableError(
                [Fault("missing", f"base backup {base.id} is built on {earlier}, which cannot be used: {why}")]
            )
        made.insert(0, by_id[earlier])
    return made


@dataclass(frozen=True)
class Needed:
    """The part of the log that a recovery takes."""

    log: tuple[Manifest, ...]
    gaps: tuple[Gap, ...]
    segment_bytes: int
    faults: tuple[Fault, ...] = ()

    @property
    def bytes(self) -> int:
        """Unpacked."""
        return sum(piece.bytes for one in self.log for piece in cluster(one).log)

    @property
    def end(self) -> str:
        """So far it reaches; empty where there is none."""
        last = max(map(cluster, self.log), key=lambda one: (one.timeline, number(one.end)), default=None)
        return last.end if last else ""


def needed(found: Archive, base: Manifest, target: Target = NEWEST) -> Needed:
    """What of the log leads from ``base`` to the target, and what of that is missing."""
    start = cluster(base)
    size = start.segment_bytes
    ours = [one for one in found.log if cluster(one).system_identifier == start.system_identifier]
    after = [one for one in ours if number(cluster(one).end) > number(start.begin)]
    log = tuple(_until(sorted(after, key=lambda one: (number(cluster(one).end), one.finished)), target))
    segments = set(_whole(log, size))
    begin = Segment.at(start.timeline, number(start.end), size)
    missing = gaps(segments, begin)
    faults = [
        Fault("gap", f"{gap.sentence(size)} is missing: nothing after {_before(log, gap, size, base)} can be recovered")
        for gap in missing
    ]
    histories = {piece.name for one in log for piece in cluster(one).log if piece.name.endswith(".history")}
    for timeline in sorted({one.timeline for one in segments if one.timeline > start.timeline}):
        if f"{timeline:08X}.history" not in histories:
            faults.append(
                Fault("gap", f"{timeline:08X}.history is missing: nothing says how timeline {timeline} began")
            )
    return Needed(log, tuple(missing), size, tuple(faults))


def _until(log: Sequence[Manifest], target: Target) -> Iterator[Manifest]:
    """Up to the first stretch that reaches beyond the target, and the one after it."""
    beyond = 0
    for one in log:
        yield one
        place = cluster(one)
        reached = target.time is not None and place.until > target.time
        beyond += reached or (bool(target.lsn) and number(place.end) > number(target.lsn))
        if beyond > 1:
            return


def _whole(log: Sequence[Manifest], size: int) -> Iterator[Segment]:
    """Segments that are there from their first to their last byte, and the one in which all of the log ends."""
    furthest = max((number(cluster(one).end) for one in log), default=0)
    for one in log:
        end = number(cluster(one).end)
        for piece in cluster(one).log:
            segment = Segment.of(piece.name, size)
            if segment is not None and (segment.start(size) + size <= end or end == furthest):
                yield segment


def _before(log: Sequence[Manifest], gap: Gap, size: int, base: Manifest) -> str:
    """When what can still be recovered ends."""
    whole = [one for one in log if number(cluster(one).end) <= gap.first.start(size) + size]
    last = max((cluster(one).until for one in whole), default=cluster(base).until)
    return f"{last:%Y-%m-%d %H:%M:%S} UTC"
