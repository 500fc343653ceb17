"""
Loading a dump into a throw-away cluster, as fast as its cores go.

pg_restore loads one table by one session, and in most databases one table is most of the data. So the rows of large
tables are dealt out to several sessions; pg_restore does all else: shapes, small tables, large objects, indexes.
"""

from __future__ import annotations

import contextlib
import queue
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from psycopg import sql

from upkeep.backup.content import LONG
from upkeep.backup.manifest import Database, Table
from upkeep.backup.programs import ProgramError, Programs, run, stream
from upkeep.backup.scratch import Cluster
from upkeep.postgres.session import connect

LARGE = 100_000
"""Rows from which on a table is dealt out: less is loaded before the sessions are there."""

UNLOGGED = """
do $$
declare one regclass;
begin
    -- A foreign key of a partitioned table may not point at an unlogged one.
    if exists (select from pg_class where relkind = 'p') then return; end if;
    for one in
        select c.oid from pg_class as c
        where c.relkind = 'r' and c.relpersistence = 'p' and c.oid >= 16384
        and not exists (
            select from pg_depend as d
            where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
        )
    loop
        execute format('alter table %s set unlogged', one);
    end loop;
end $$
"""
"""Nothing of it is kept, so nothing needs to be written twice."""


def load(cluster: Cluster, archive: Path, database: Database, *, jobs: int) -> None:
    """
    Make the database of ``archive`` in ``cluster``.

    :param jobs: sessions at once.
    :raises ProgramError: pg_restore failed. :raises psycopg.Error: a row was refused.
    """
    pg_restore = _Restore(cluster, archive, cluster.conninfo(database.name))
    pg_restore("pre-data", "--create", conninfo=cluster.conninfo())
    with connect(pg_restore.conninfo, statement_timeout=LONG) as connection:
        connection.execute(UNLOGGED)
    entries = run([cluster.programs("pg_restore"), "--list", str(archive)], cluster.programs.environment()).splitlines()
    large = [one for table in database.tables if table.rows >= LARGE for one in _of(table, entries)]
    if jobs > 1:
        for number, entry in enumerate(large):
            _deal_out(pg_restore, pg_restore.listed(f"large.{number}", [entry]), jobs)
        entries = [entry for entry in entries if entry not in set(large)]
    pg_restore("data", f"--jobs={jobs}", f"--use-list={pg_restore.listed('rest', entries)}")
    pg_restore("post-data", f"--jobs={jobs}")


class _Restore:
    """pg_restore with the arguments that all its calls share."""

    def __init__(self, cluster: Cluster, archive: Path, conninfo: str) -> None:
        self.programs, self.archive, self.conninfo = cluster.programs, archive, conninfo

    def __call__(self, section: str, *arguments: str, conninfo: str = "") -> None:
        run(
            [
                *(self.programs("pg_restore"), f"--section={section}", "--exit-on-error", "--no-tablespaces"),
                *("--no-subscriptions", *arguments, "--dbname", conninfo or self.conninfo, str(self.archive)),
            ],
            self.programs.environment(),
        )

    def listed(self, name: str, entries: Iterable[str]) -> Path:
        """A file for ``--use-list``."""
        file = self.archive.with_name(f"{name}.list")
        file.write_text("\n".join(entries) + "\n")
        return file


def _of(table: Table, entries: Sequence[str]) -> list[str]:
    """Its entry in the archive's list; none where the list, which quotes nothing, could mean another one as well."""
    wanted = re.compile(rf"\d+; \d+ \d+ TABLE DATA {re.escape(table.schema_name)} {re.escape(table.name)} \S+")
    found = [entry for entry in entries if wanted.fullmatch(entry)]
    return found if len(found) == 1 else []


def _deal_out(pg_restore: _Restore, entry: Path, sessions: int) -> None:
    programs: Programs = pg_restore.programs
    script = [programs("pg_restore"), f"--use-list={entry}", "--file=-", str(pg_restore.archive)]
    chunks: queue.Queue[bytes | None] = queue.Queue(2 * sessions)
    failed = threading.Event()
    with (
        contextlib.closing(stream(script, programs.environment())) as pieces,
        ThreadPoolExecutor(sessions, thread_name_prefix="load") as pool,
    ):
        rows = Rows(pieces)
        work = [pool.submit(_copy, pg_restore.conninfo, rows, chunks, failed) for _ in range(sessions)]
        try:
            for chunk in rows:
                _put(chunks, chunk, failed)
        except BaseException:
            failed.set()
            raise
        finally:
            for _ in work:
                _put(chunks, None, failed)
        for future in work:
            future.result()


def _put(chunks: queue.Queue[bytes | None], chunk: bytes | None, failed: threading.Event) -> None:
    while not failed.is_set():
        with contextlib.suppress(queue.Full):
            chunks.put(chunk, timeout=0.5)
            return


def _copy(conninfo: str, rows: Rows, chunks: queue.Queue[bytes | None], failed: threading.Event) -> None:
    try:
        with (
            connect(conninfo, statement_timeout=LONG, settings={"client_encoding": rows.encoding}) as connection,
            connection.cursor() as cursor,
            cursor.copy(sql.SQL(rows.statement)) as copy,
        ):
            while (chunk := _next(chunks, failed)) is not None:
                copy.write(chunk)
    except BaseException:
        failed.set()
        raise


def _next(chunks: queue.Queue[bytes | None], failed: threading.Event) -> bytes | None:
    while True:
        try:
            return chunks.get(timeout=0.5)
        except queue.Empty:
            if failed.is_set():
                raise ProgramError("another session of this table failed", hint="its message is the cause.") from None


class Rows:
    """The rows of one table in the script that pg_restore writes for it, in chunks that end where a row ends."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        """:raises ProgramError: there is no COPY in it."""
        self.pieces = pieces
        head = b""
        while (found := re.search(rb"^COPY [\s\S]*? FROM stdin;\n", head, re.M)) is None:
            piece = next(pieces, None)
            if piece is None:
                raise ProgramError("pg_restore wrote no COPY for a table with rows", hint="the archive is damaged.")
            head += piece
        encoding = re.search(rb"^SET client_encoding = '(\w+)';", head, re.M)
        self.encoding = encoding[1].decode() if encoding else "UTF8"
        self.statement = found[0].decode().removesuffix(";\n")
        self.rest = head[found.end() :]

    def __iter__(self) -> Iterator[bytes]:
        rest, ended = self.rest, False
        while not ended:
            # Within a row a line's end is written as \\n, so each real one ends a row.
            cut = rest.rfind(b"\n") + 1
            chunk, rest = rest[:cut], rest[cut:]
            end = 0 if chunk.startswith(b"\\.\n") else chunk.find(b"\n\\.\n") + 1
            if end or chunk.startswith(b"\\.\n"):
                chunk, ended = chunk[:end], True
            if chunk:
                yield chunk
            if not ended:
                piece = next(self.pieces, None)
                if piece is None:
                    raise ProgramError("pg_restore ended within a table", hint="the archive is damaged.")
                rest += piece
        # What follows is nothing; but only at its end it says whether all went well.
        for _ in self.pieces:
            pass
