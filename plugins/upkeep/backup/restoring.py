"""
The second tier of verification: a backup counts when it was restored and holds what its manifest says.

Into a throw-away cluster of the same major version: roles, dump, then counts and digests of every table, sequences,
extensions, B-trees, and the platform's own questions.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from upkeep.backup import content, loading, reading, scratch
from upkeep.backup.compression import CompressionError
from upkeep.backup.dump import ARCHIVE, ROLES
from upkeep.backup.encryption import DecryptionError, Key
from upkeep.backup.faults import Fault, some
from upkeep.backup.manifest import Database, Extension, Manifest, Table
from upkeep.backup.programs import ProgramError, Programs, command
from upkeep.backup.store import Store
from upkeep.errors import UpkeepError
from upkeep.platforms.database import Query
from upkeep.postgres.session import Connection, connect

ANSWER = timedelta(minutes=10)
"""One of the platform's own questions may take this long."""


class ForbiddenTargetError(UpkeepError):
    """The target of a restore is the server that the backup came from."""


@dataclass
class Proof:
    """What came of restoring one backup."""

    faults: list[Fault] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """By phase: fetch, start, restore, compare …"""

    began: dict[str, datetime] = field(default_factory=dict)
    """By phase."""

    facts: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        self.began[name] = datetime.now(UTC)
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - began, 3)


def prove(
    store: Store, manifest: Manifest, key: Key | None, programs: Programs, place: Path, queries: Sequence[Query] = ()
) -> Proof:
    """
    Restore a backup in ``place``, a directory of ``scratch.directory``, and compare.

    :raises StoreError: the store is away. :raises ScratchError: no cluster can be made here.
    """
    assert manifest.database is not None
    proof = Proof()
    began = time.monotonic()
    proof.began["start"] = datetime.now(UTC)
    with ThreadPoolExecutor(1, thread_name_prefix="fetch") as pool:
        fetched = pool.submit(_fetch, store, manifest, key, place, proof)
        with scratch.cluster(place, programs, manifest.database.encoding) as cluster:
            proof.seconds["start"] = round(time.monotonic() - began, 3)
            if fetched.result():
                _try(cluster, manifest.database, place, queries, proof)
    proof.seconds["total"] = round(time.monotonic() - began, 3)
    return proof


def _try(cluster: scratch.Cluster, database: Database, place: Path, queries: Sequence[Query], proof: Proof) -> None:
    with connect(cluster.conninfo()) as connection:
        refuse_the_source(connection, database)
    with proof.phase("restore"):
        restored = _restore(cluster, database, place, proof)
    if not restored:
        return
    conninfo = cluster.conninfo(database.name)
    with proof.phase("compare"):
        proof.faults += compare(conninfo, database)
    with proof.phase("indexes"):
        proof.faults += _indexes(conninfo, proof)
    with proof.phase("questions"):
        proof.faults += ask(conninfo, queries)


def refuse_the_source(connection: Connection, database: Database) -> None:
    """:raises ForbiddenTargetError: this server is the one that was dumped; nothing may be restored into it."""
    row = connection.execute("select system_identifier::text as id from pg_control_system()").fetchone()
    if row and row["id"] == database.system_identifier:
        raise ForbiddenTargetError(
            f"the target is the cluster that the backup came from (system identifier {row['id']})",
            hint="verification restores into a cluster of its own; somebody sent it to production.",
        )


def _fetch(store: Store, manifest: Manifest, key: Key | None, place: Path, proof: Proof) -> bool:
    """Roles and archive as plain files; False when what arrived is not what was sent."""
    with proof.phase("fetch"):
        for role in (ROLES, ARCHIVE):
            raw = reading.Objects(store, manifest.role(role))
            try:
                with (place / role).open("wb", buffering=0) as file:
                    for piece in reading.plain(raw, manifest, key, role):
                        file.write(piece)
            except (DecryptionError, CompressionError) as unread:
                proof.faults.append(Fault("unreadable", f"{role} cannot be read: {unread.message}"))
            proof.faults += raw.faults
    return not proof.faults


def _restore(cluster: scratch.Cluster, database: Database, place: Path, proof: Proof) -> bool:
    programs = cluster.programs
    roles = place / "roles.restorable.sql"
    roles.write_text("\n".join(_restorable((place / ROLES).read_text().splitlines())) + "\n")
    arguments = ["-X", "-q", "-v", "ON_ERROR_STOP=0", "-d", cluster.conninfo(), "-o", "/dev/null", "-f", str(roles)]
    said = _errors(programs, arguments)
    if said:
        proof.faults.append(Fault("roles", f"roles cannot be restored: {some(said, 3)}"))
    jobs = max(1, os.cpu_count() or 1)
    proof.facts["jobs"] = jobs
    try:
        loading.load(cluster, place / ARCHIVE, database, jobs=jobs)
    except psycopg.Error as refused:
        proof.faults.append(Fault("restore", " ".join(str(refused).split())[:500]))
        return False
    except ProgramError as failed:
        if cure := this_workers_fault(failed.message):
            raise scratch.ScratchError(f"it could not be restored here: {failed.message}", hint=cure) from None
        proof.faults.append(Fault("restore", failed.message))
        return False
    return True


def this_workers_fault(said: str) -> str:
    """What to do about a failure for which no backup is to blame; empty for all others."""
    return next((cure for pattern, cure in _WORKER.items() if re.search(pattern, said)), "")


_WORKER = {
    r"No space left on device|Disk quota exceeded": (
        "make room, or name a larger disk as `scratch` in include/upkeep.yaml."
    ),
    r"was killed by SIG|out of memory|Cannot allocate memory|server closed the connection": (
        "look at the worker's log; it may need more memory."
    ),
    r"extension \"[^\"]+\" is not available|could not open extension control file|could not access file \"": (
        "install the extension's package for this version of PostgreSQL on the workers."
    ),
    r"invalid LC_\w+ (locale )?name|invalid locale name|locale name .* is not recognized|ICU is not supported": (
        "generate the database's locale on the workers (locale-gen), or install a PostgreSQL with ICU."
    ),
}


def _restorable(lines: Iterable[str]) -> Iterator[str]:
    """Roles without what depends on the old server: directories of tablespaces, and who granted a membership."""
    for line in lines:
        if re.match(
            r"(?i)(create|alter|comment on|grant \w+ on|revoke \w+ on) tablespace|grant .* on tablespace", line
        ):
            continue
        if re.match(r"(?i)create role postgres;", line):
            continue
        yield re.sub(r" GRANTED BY \S+;$", ";", line) if line.startswith("GRANT ") else line


def _errors(programs: Programs, arguments: list[str]) -> list[str]:
    """What psql said was wrong, one per statement."""
    done = subprocess.run(
        command([programs("psql"), *arguments]), env=programs.environment(), cwd="/", capture_output=True, text=True
    )
    said = [line.partition("ERROR:")[2].strip() for line in done.stderr.splitlines() if "ERROR:" in line]
    return said or ([done.stderr.strip()[-300:]] if done.returncode else [])


# -- comparing -----------------------------------------------------------------------------------------


def compare(conninfo: str, database: Database) -> list[Fault]:
    """What a restored database holds, against what the manifest says it held."""
    with content.session(conninfo) as connection:
        there = {(one.schema_name, one.name) for one in content.tables(connection)}
        values = content.sequences(connection)
        extensions = content.extensions(connection)
    wanted = {(one.schema_name, one.name): one for one in database.tables}
    absent = sorted(wanted[name].full_name for name in wanted.keys() - there)
    faults = [Fault("tables", f"not restored: {some(absent)}")] if absent else []
    found = [content.Found(one.schema_name, one.name, one.method) for name, one in wanted.items() if name in there]
    for one in content.everything(conninfo, found):
        faults += _differs(wanted[one.schema_name, one.name], one)
    faults += _sequences(database, values)
    faults += _extensions(database.extensions, {one.name: one.version for one in extensions})
    return faults


def _differs(wanted: Table, found: Table) -> Iterator[Fault]:
    if found.rows != wanted.rows:
        yield Fault("rows", f"{wanted.full_name} has {found.rows:,} rows; the snapshot had {wanted.rows:,}")
    elif found.digest != wanted.digest:
        yield Fault(
            "digest", f"{wanted.full_name} has all {found.rows:,} rows, and their content is not the snapshot's"
        )


def _sequences(database: Database, values: content.Values) -> Iterator[Fault]:
    for one in database.sequences:
        value, _ = values.get((one.schema_name, one.name), (None, False))
        low, high = sorted((one.before, one.after))
        if value is None:
            yield Fault("sequence", f"sequence {one.full_name} was not restored")
        elif not low <= value <= high:
            was = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            yield Fault("sequence", f"sequence {one.full_name} stands at {value:,}; it stood at {was}")


def _extensions(wanted: Iterable[Extension], found: Mapping[str, str]) -> Iterator[Fault]:
    for one in wanted:
        if one.name not in found:
            yield Fault("extension", f"extension {one.name} was not restored")


def _indexes(conninfo: str, proof: Proof) -> list[Fault]:
    """Every B-tree, by amcheck. A dump builds its indexes anew: what is wrong here is the type, collation or disk."""
    faults = []
    with connect(conninfo, statement_timeout=content.LONG) as connection:
        try:
            connection.execute("create extension if not exists amcheck")
        except psycopg.Error:
            proof.facts["amcheck"] = "not available on this worker"
            return []
        row = connection.execute(
            "select extnamespace::regnamespace::text as s from pg_extension where extname='amcheck'"
        )
        schema = (row.fetchone() or {"s": "public"})["s"]
        check = sql.SQL("select {}.bt_index_check(%s::oid::regclass)").format(sql.SQL(schema))
        indexes = connection.execute(content.query("indexes")).fetchall()
        for index in indexes:
            try:
                connection.execute(check, [index["oid"]])
            except psycopg.Error as broken:
                faults.append(Fault("index", f"index {index['name']}: {broken.diag.message_primary or broken}"))
        proof.facts["indexes"] = len(indexes)
    return faults


def ask(conninfo: str, queries: Sequence[Query]) -> list[Fault]:
    """The platform's own questions: data that is whole answers them."""
    faults = []
    with connect(conninfo, statement_timeout=ANSWER, settings={"default_transaction_read_only": "on"}) as connection:
        for query in queries:
            try:
                row = connection.execute(query.sql.encode()).fetchone()
            except psycopg.Error as wrong:
                faults.append(Fault("query", f"question {query.name} cannot be asked: {wrong.diag.message_primary}"))
                continue
            answer = next(iter(row.values())) if row else None
            if query.at_least is not None and (answer is None or float(answer) < query.at_least):
                faults.append(
                    Fault("query", f"question {query.name}: {answer}, and at least {query.at_least:g} is right")
                )
    return faults
