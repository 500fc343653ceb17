"""
Proof of a base backup and its log, in two tiers.

``bytes`` reads everything back and compares it with the manifest, each file with the server's own list, and each
segment of the log with its name. ``content`` recovers the cluster to the newest point and looks at what came up: every
heap and B-tree by pg_amcheck, every row of the platform's database read, the platform's own questions asked.
"""

from __future__ import annotations

import re
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from upkeep.backup import content, manifest, reading, restoring
from upkeep.backup.compression import CompressionError
from upkeep.backup.encryption import DecryptionError, WrongKeyError
from upkeep.backup.faults import Fault
from upkeep.backup.manifest import Manifest, ManifestError
from upkeep.backup.physical import archive, members, segments
from upkeep.backup.physical.archive import NEWEST, Target, UnrecoverableError
from upkeep.backup.physical.base import BASE
from upkeep.backup.physical.recovering import Recovered, recover
from upkeep.backup.physical.source import BASES
from upkeep.backup.physical.wal import ROLE
from upkeep.backup.programs import command
from upkeep.backup.restoring import Proof
from upkeep.backup.verification import Subject, Verdict
from upkeep.errors import SettingsError
from upkeep.platforms.database import Query

# -- the first tier ----------------------------------------------------------------------------------------


def read_back(subject: Subject) -> Verdict:
    """A base backup, what it is built on, and all of the log since. :raises StoreError: the store is away."""
    verdict = Verdict(facts={"id": subject.id})
    try:
        base = manifest.read(
            subject.store, subject.prefix + BASES, subject.id, platform=subject.platform, sha256=subject.sha256
        )
        verdict.manifest = base
        found = archive.look(subject.store, subject.prefix, subject.platform)
        bases = archive.chain(found, base)
    except ManifestError as wrong:
        verdict.faults.append(Fault("manifest", wrong.message))
        return verdict
    except UnrecoverableError as wrong:
        verdict.faults += wrong.faults
        return verdict
    needed = archive.needed(found, base)
    verdict.faults += needed.faults
    total = 0
    for one in [*bases, *needed.log]:
        faults, size = look(subject, one)
        total += size
        verdict.faults += faults
    verdict.facts |= {"bytes": total, "stretches": len(needed.log), "log_end": needed.end}
    return verdict


def look(subject: Subject, one: Manifest) -> tuple[list[Fault], int]:
    """Every byte of one base backup, or of one stretch of the log; and how many they were."""
    faults: list[Fault] = []
    total = 0
    for role in dict.fromkeys(part.role for part in one.objects):
        raw = reading.Objects(subject.store, one.role(role))
        scanner = members.Scanner([members.FILE_LIST], head=segments.HEADER.size)
        opened: list[Fault] = []
        try:
            for piece in reading.plain(raw, one, subject.key, role):
                if role in (BASE, ROLE):
                    scanner.feed(piece)
        except DecryptionError as unread:
            kind = "key" if isinstance(unread, WrongKeyError) else "unreadable"
            opened.append(Fault(kind, f"{one.id}: {role} cannot be decrypted: {unread.message}"))  # type: ignore[arg-type]
        except CompressionError as unread:
            opened.append(Fault("unreadable", f"{one.id}: {role} cannot be decompressed: {unread.message}"))
        except tarfile.TarError as unread:
            opened.append(Fault("contents", f"{one.id}: {role} is no archive: {unread}"))
        # Whoever stopped reading early has not compared the rest.
        for _ in raw:
            pass
        total += raw.bytes
        faults += raw.faults + ([] if raw.absent else opened)
        if not raw.absent and not opened:
            faults += _base(scanner) if role == BASE else _log(scanner, one) if role == ROLE else []
    return faults, total


def _base(scanner: members.Scanner) -> list[Fault]:
    files = members.listed(scanner.members)
    return [files] if isinstance(files, Fault) else members.compare(scanner.members, files)


def _log(scanner: members.Scanner, one: Manifest) -> list[Fault]:
    faults = []
    for piece in archive.cluster(one).log:
        found = scanner.members.get(piece.name)
        if found is None:
            faults.append(Fault("contents", f"log segment {piece.name} is not in its stretch {one.id}"))
            continue
        wrong = list(segments.judge(piece, found.head, archive.cluster(one)))
        faults += wrong
        if found.sha256 != piece.sha256 and not wrong:
            faults.append(Fault("changed", f"log segment {piece.name} in {one.id} was changed or replaced"))
    return faults


# -- the second tier ---------------------------------------------------------------------------------------


def restore(
    subject: Subject,
    parent: Path,
    queries: Sequence[Query],
    made: Callable[[Path], None],
    removed: Callable[[Path], None],
    target: Target = NEWEST,
) -> Verdict:
    """As ``verification.restore``, of a whole cluster. :raises StoreError: the store is away."""
    verdict = Verdict(facts={"id": subject.id})
    try:
        verdict.manifest = manifest.read(
            subject.store, subject.prefix + BASES, subject.id, platform=subject.platform, sha256=subject.sha256
        )
        with recover(subject, parent, target, made=made, removed=removed) as recovered:
            proof = prove(recovered, queries)
    except ManifestError as wrong:
        verdict.faults.append(Fault("manifest", wrong.message))
        return verdict
    except UnrecoverableError as wrong:
        verdict.faults += wrong.faults
        return verdict
    except SettingsError as lacking:
        verdict.unknown = lacking.message
        return verdict
    verdict.faults += proof.faults
    verdict.began = proof.began
    verdict.facts |= {**recovered.facts, "seconds": proof.seconds, **proof.facts}
    return verdict


def prove(recovered: Recovered, queries: Sequence[Query] = ()) -> Proof:
    """Look at a recovered cluster: it is whole, and it answers."""
    proof = Proof(seconds=dict(recovered.seconds), began=dict(recovered.began))
    with proof.phase("check"):
        proof.faults += amcheck(recovered, proof)
    with proof.phase("read"):
        with content.session(recovered.conninfo()) as connection:
            found = content.tables(connection)
        tables = content.everything(recovered.conninfo(), found)
        proof.facts |= {"tables": len(tables), "rows": sum(one.rows for one in tables)}
    with proof.phase("questions"):
        proof.faults += restoring.ask(recovered.conninfo(), queries)
    proof.seconds["total"] = round(sum(proof.seconds.values()), 3)
    return proof


def amcheck(recovered: Recovered, proof: Proof) -> list[Fault]:
    """Every heap and every B-tree of every database, each row against its index entries (PostgreSQL 14 and newer)."""
    programs = recovered.cluster.programs
    if not (programs.directory / "pg_amcheck").exists():
        proof.facts["amcheck"] = "no pg_amcheck on this worker"
        return []
    done = subprocess.run(
        command(
            [
                *(programs("pg_amcheck"), "--all", "--install-missing", "--heapallindexed", "--jobs=2"),
                f"--maintenance-db={recovered.conninfo('postgres')}",
            ]
        ),
        env={**programs.environment(), "PGHOST": str(recovered.cluster.path), "PGUSER": recovered.cluster.superuser},
        cwd="/",
        capture_output=True,
        text=True,
    )
    if not done.returncode:
        proof.facts["amcheck"] = "every heap and B-tree"
        return []
    if re.search(r"extension \"amcheck\" is not available|could not open extension control file", done.stderr):
        proof.facts["amcheck"] = "not available on this worker"
        return []
    said = [line.strip() for line in (done.stdout or done.stderr).splitlines() if line.strip()]
    return [Fault("index", f"pg_amcheck: {' '.join(said[:4])[:400]}")]
