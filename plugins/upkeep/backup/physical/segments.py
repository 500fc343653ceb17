"""Segments of the log, looked at one by one: whether each is the one that its name says, of the cluster it must be."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path

from upkeep.backup.faults import Fault
from upkeep.backup.manifest import Cluster, Piece
from upkeep.backup.physical.lsn import Segment, text

HEADER = struct.Struct("<HHIQI4xQII")
"""XLogLongPageHeaderData: magic, info, timeline, address of the page, rest, system identifier, sizes."""


def judge(piece: Piece, head: bytes, cluster: Cluster) -> Iterator[Fault]:
    """What the first page of a segment says, against its name; as every little-endian server writes it."""
    segment = Segment.of(piece.name, cluster.segment_bytes)
    if segment is None or len(head) < HEADER.size:
        return
    _, _, timeline, address, _, system_identifier, _, _ = HEADER.unpack(head[: HEADER.size])
    start = segment.start(cluster.segment_bytes)
    if address != start:
        yield Fault(
            "changed", f"log segment {piece.name} holds the log from {text(address)} on, and should from {text(start)}"
        )
    elif str(system_identifier) != cluster.system_identifier:
        yield Fault("changed", f"log segment {piece.name} is another cluster's ({system_identifier})")
    elif timeline > segment.timeline:
        yield Fault("changed", f"log segment {piece.name} is of timeline {timeline}")


def look(place: Path, cluster: Cluster) -> Iterator[Fault]:
    """The files of one stretch, unpacked in ``place``; call it before the next one is unpacked over it."""
    for piece in cluster.log:
        path = place / piece.name
        if not path.exists():
            yield Fault("contents", f"{piece.name} is not in its stretch of the log")
            continue
        with path.open("rb") as file:
            head = file.read(HEADER.size)
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        wrong = list(judge(piece, head, cluster))
        yield from wrong
        if sha256 != piece.sha256 and not wrong:
            yield Fault("changed", f"log segment {piece.name} was changed or replaced: SHA-256 is {sha256[:12]}…")
