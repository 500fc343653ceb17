"""A dump from S3 into a database that was made for it: read whole first, then streamed through pg_restore."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from psycopg.conninfo import make_conninfo

from upkeep.backup import content, reading
from upkeep.backup.dump import ARCHIVE
from upkeep.backup.encryption import Key
from upkeep.backup.faults import some
from upkeep.backup.manifest import Manifest
from upkeep.backup.programs import Programs, command, failed, without_secrets
from upkeep.backup.restore.choose import RefusedError
from upkeep.backup.store import Store
from upkeep.postgres.session import connect


def check(store: Store, manifest: Manifest, key: Key | None, programs: Programs) -> int:
    """
    Read all of a backup and compare it with its manifest, before anything is made for it; its bytes.

    :raises RefusedError: it is not what was written. :raises StoreError: the store is away.
    """
    seen = reading.look(store, manifest, key, programs)
    if seen.faults:
        raise RefusedError(
            f"backup {manifest.id} is not what was written: {some([fault.said for fault in seen.faults], 3)}",
            hint="choose another one; nothing was made for it.",
        )
    return seen.bytes


def load(
    store: Store, manifest: Manifest, key: Key | None, programs: Programs, conninfo: str, lines: Sequence[str]
) -> None:
    """
    Stream the dump into the empty database behind ``conninfo``; nothing of it touches the worker's disk.

    :param lines: of its table of contents: what is restored.
    :raises ProgramError: pg_restore failed. :raises RefusedError: the stream is not what it was a moment ago.
    :raises StoreError: the store is away.
    """
    raw = reading.Objects(store, manifest.role(ARCHIVE))
    with tempfile.NamedTemporaryFile("w", prefix="upkeep-contents-", suffix=".list") as chosen:
        chosen.write("\n".join(lines) + "\n")
        chosen.flush()
        _feed(programs, conninfo, Path(chosen.name), reading.plain(raw, manifest, key, ARCHIVE))
    # pg_restore stops reading at the end of the last table; what the archive's end holds is compared all the same.
    for _ in raw:
        pass
    if raw.faults:
        raise RefusedError(
            f"backup {manifest.id} changed while it was restored: {some([fault.said for fault in raw.faults])}",
            hint="somebody is at the bucket; find out who, and choose another backup.",
        )


def _feed(programs: Programs, conninfo: str, chosen: Path, pieces: Iterable[bytes]) -> None:
    target = make_conninfo(conninfo, application_name="upkeep restore")
    process = subprocess.Popen(
        command(
            [
                *(programs("pg_restore"), "--exit-on-error", "--no-tablespaces", "--no-subscriptions"),
                *("--no-password", f"--use-list={chosen}", f"--dbname={without_secrets(target)}"),
            ]
        ),
        env=programs.environment(conninfo),
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stderr is not None
    said: deque[str] = deque(maxlen=20)
    listener = threading.Thread(target=_listen, args=(process.stderr, said), daemon=True)
    listener.start()
    try:
        try:
            for piece in pieces:
                process.stdin.write(piece)
            process.stdin.close()
        except BrokenPipeError:
            # It has all that it wants, or it failed and says why.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        code = process.wait()
        listener.join(5)
        if code:
            raise failed("pg_restore", code, said)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _listen(pipe: Iterable[bytes], said: deque[str]) -> None:
    for line in pipe:
        said.append(line.decode(errors="replace"))


def analyze(conninfo: str) -> None:
    """Statistics, without which the first queries after the swap would crawl: a dump brings none."""
    with connect(conninfo, statement_timeout=content.LONG) as connection:
        connection.execute("analyze")
