"""A server whose whole cluster is backed up with its log, and what can be done to what lies in the archive."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from sandbox import processes
from sandbox.home import REPOSITORY, Home
from sandbox.servers import postgres as servers
from tests.backup_server import BackupServer
from tests.postgres_server import DATABASE
from upkeep.backup import verification
from upkeep.backup.dump import Made
from upkeep.backup.manifest import Manifest, Object, commit, folder, new_id
from upkeep.backup.physical import archive, base, members, proving, recovering, source, wal
from upkeep.backup.physical.archive import NEWEST, Target
from upkeep.backup.physical.source import LOG, Job

MEMORY = Path("/dev/shm")


def roomy(place: Path) -> bool:
    """A cluster has more than a thousand files: where there is memory to spare, they need no disk."""
    return place.is_dir() and shutil.disk_usage(place).free > 2 << 30


class ClusterServer(BackupServer):
    """Backed up as the maintenance role, which has REPLICATION and no more."""

    def __init__(self, home: Home, version: int, **how: Any) -> None:
        summaries = {"summarize_wal": True} if version >= 17 else {}
        # It lets go of its log when a test says so, by a checkpoint, and never otherwise.
        super().__init__(home, version, **summaries, wal_keep_size=0, checkpoint_timeout="1h", **how)
        self.replication(on=True)
        self.parent = Path(tempfile.mkdtemp(prefix="up-", dir=MEMORY if roomy(MEMORY) else Path("/tmp")))
        atexit.register(shutil.rmtree, self.parent, ignore_errors=True)

    def replication(self, *, on: bool) -> None:
        """As an administrator would."""
        if not on:
            self.superuser("alter role upkeep noreplication")
            return
        with servers.superuser(self.home, self.name, DATABASE) as connection:
            connection.execute("select set_config('upkeep.tables_owner', 'app_owner', false)")
            connection.execute("select set_config('upkeep.physical', 'on', false)")
            connection.execute((REPOSITORY / "include" / "sql" / "postgres" / "roles.sql").read_bytes())

    def empty(self) -> Self:
        super().empty()
        self.forget()
        return self

    def forget(self) -> None:
        """No archive, and nothing kept for one."""
        for one in list(self.store.objects(self.prefix)):
            self.store.delete(one.key)
        with source.session(self.conninfo) as connection:
            source.drop(connection, "upkeep")

    # -- backing up and recovering -------------------------------------------------------------------------

    def cluster(self, **how: Any) -> Job:
        return Job("studyspot", self.conninfo, self.store, self.prefix, **how)

    def take(self, *, since: Manifest | None = None, **how: Any) -> Manifest:
        made: Made = base.take(self.cluster(**how), self.choose, checkpoint="fast", since=since)
        return made.manifest

    def ship(self, **how: Any) -> wal.Round:
        """One round of the log's archive."""
        return wal.archive(self.cluster(**how), self.choose, self.parent)

    def next_segment(self) -> None:
        self.superuser("select pg_switch_wal()")

    def move_on(self) -> None:
        """Two segments further; the server tries to let go of what is behind."""
        for _ in range(2):
            self("insert into audit.log (said) values ('it went on')")
            self.next_segment()
        self.superuser("checkpoint")

    def let_go(self) -> None:
        """What it has of its log now is gone from the server; no slot may keep it."""
        ((name,),) = self("select pg_walfile_name(pg_current_wal_lsn())")
        self.move_on()

        def gone() -> bool:
            # The summarizer keeps it too, until it has read it.
            self.superuser("checkpoint")
            return not self.superuser(f"select from pg_ls_waldir() where name = '{name}'")

        processes.wait_until(gone, 60, f"{name} to go")

    def now(self) -> datetime:
        at: datetime = self("select clock_timestamp()")[0][0]
        return at

    @contextmanager
    def recovered(self, id: str = "", target: Target = NEWEST, **how: Any) -> Iterator[recovering.Recovered]:
        with recovering.recover(self.subject(id, **how), self.parent, target) as recovered:
            yield recovered
        assert not list(self.parent.iterdir()), "nothing is left"

    def look(self, id: str, **how: Any) -> list[tuple[str, str]]:
        """Faults of the first tier."""
        return _told(proving.read_back(self.subject(id, **how)))

    def prove(self, id: str, queries: Any = (), **how: Any) -> list[tuple[str, str]]:
        """Faults of the second tier."""
        verdict = proving.restore(self.subject(id, **how), self.parent, queries, lambda path: None, lambda path: None)
        assert not verdict.unknown
        assert not list(self.parent.iterdir()), "nothing is left"
        return _told(verdict)

    # -- doing something to what is stored -------------------------------------------------------------------

    def stretches(self) -> list[Manifest]:
        return archive.look(self.store, self.prefix, "studyspot").log

    def lose(self, stretch: Manifest) -> None:
        for one in list(self.store.objects(folder(self.prefix + LOG, stretch.id))):
            self.store.delete(one.key)

    def forge(self, stretch: Manifest, files: dict[str, bytes], *, honest: bool = True) -> Manifest:
        """Another stretch in the place of this one: consistent in itself, with its own honest SHA-256."""
        self.lose(stretch)
        id = new_id()
        with tempfile.TemporaryDirectory() as place:
            for name, content in files.items():
                (Path(place) / name).write_bytes(content)
            paths = [(name, Path(place) / name) for name in sorted(files)]
            written = base.write(self.cluster(), LOG, id, wal.ROLE, wal.FILE, members.archive(paths))
            pieces = tuple(wal._piece(name, path) for name, path in paths)
        assert stretch.cluster is not None
        objects: tuple[Object, ...] = base.objects(written)
        changed = {"log": pieces} if honest else {}
        forged = stretch.model_copy(
            update={"id": id, "objects": objects, "cluster": stretch.cluster.model_copy(update=changed)}
        )
        commit(self.store, self.prefix + LOG, forged)
        return forged

    def unpacked(self, stretch: Manifest) -> dict[str, bytes]:
        """The files of a stretch."""
        assert stretch.cluster is not None
        with tempfile.TemporaryDirectory() as place:
            assert (
                recovering._fetch_log(
                    self.subject(""), archive.Needed((stretch,), (), stretch.cluster.segment_bytes), Path(place)
                )
                == []
            )
            return {path.name: path.read_bytes() for path in Path(place).iterdir()}


def _told(verdict: verification.Verdict) -> list[tuple[str, str]]:
    return [(fault.kind, fault.said) for fault in verdict.faults]
