"""PostgreSQL's own programs on this worker: which there are, which fit a server, and how they are run."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from upkeep.alerts.redact import redact
from upkeep.errors import SettingsError, UpkeepError

USUAL = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql@*/bin")
"""Where Debian's, PGDG's and others' packages put them."""

NOBODY = 65534
PIPE = 1024 * 1024


class ProgramError(UpkeepError):
    """A program of PostgreSQL failed."""


@dataclass(frozen=True)
class Programs:
    """One ``bin`` directory."""

    directory: Path
    version: int
    """As the server counts: ``170010``."""

    text: str
    """``17.10``."""

    def __call__(self, name: str) -> str:
        return str(self.directory / name)

    @property
    def major(self) -> int:
        return self.version // 10_000

    @property
    def libraries(self) -> dict[str, str]:
        """A package that was unpacked anywhere has its libraries beside it."""
        found = [str(one) for one in self.directory.parent.parent.parent.glob("*-linux-gnu") if one.is_dir()]
        return {"LD_LIBRARY_PATH": ":".join(found)} if found and not self.directory.is_relative_to("/usr") else {}

    def environment(self, conninfo: str = "") -> dict[str, str]:
        """Nothing of ours but the password, which must not stand among the arguments."""
        said = conninfo_to_dict(conninfo)
        secrets = {"PGPASSWORD": "password", "PGSSLPASSWORD": "sslpassword"}
        return {
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            **self.libraries,
            **{name: str(said[key]) for name, key in secrets.items() if said.get(key)},
        }

    def packs_zstd(self) -> bool:
        """Whether this pg_dump can compress with zstd."""
        return _packs_zstd(self)


def without_secrets(conninfo: str) -> str:
    """``conninfo`` as it may stand among arguments, which anybody on the machine can read."""
    said = conninfo_to_dict(conninfo)
    kept: dict[str, Any] = {key: value for key, value in said.items() if key not in ("password", "sslpassword")}
    return make_conninfo("", **kept)


def installed(more: Iterable[Path] = ()) -> list[Programs]:
    """Every set of client programs on this worker, the newest first."""
    directories = [Path(one) for one in more]
    for pattern in USUAL:
        directories += sorted(Path("/").glob(pattern.lstrip("/")))
    if on_path := shutil.which("pg_dump"):
        directories.append(Path(on_path).parent)
    # Debian's /usr/bin/pg_dump is a wrapper that chooses among the others.
    found = {one.directory.resolve(): one for one in map(_look, directories) if one is not None}
    return sorted(found.values(), key=lambda one: one.version, reverse=True)


def client(server_version: int, more: Iterable[Path] = ()) -> Programs:
    """
    The programs with which to dump a server: of its own major version, else of the next newer one.

    Not simply the newest: what pg_dump 18 writes need not load into a server of version 17.

    :raises SettingsError: all of them are older than the server, or there are none.
    """
    found = installed(more)
    fit = [one for one in found if one.major >= server_version // 10_000]
    if not fit:
        major = server_version // 10_000
        newest = f"the newest pg_dump on this worker is {found[0].text}" if found else "no pg_dump on this worker"
        raise SettingsError(
            f"{newest}, and the server is version {major}: an older client cannot dump a newer server",
            hint=f"install postgresql-client-{major} on the workers, or name its directory in `postgres_programs`"
            " of include/upkeep.yaml.",
        )
    least = min(one.major for one in fit)
    return max((one for one in fit if one.major == least), key=lambda one: one.version)


def server(major: int, more: Iterable[Path] = ()) -> Programs | None:
    """The programs with which to run a server of ``major``; None when this worker has none."""
    return next(
        (
            one
            for one in installed(more)
            if one.major == major and all((one.directory / name).exists() for name in ("initdb", "postgres"))
        ),
        None,
    )


@cache
def _look(directory: Path) -> Programs | None:
    try:
        programs = Programs(directory, 0, "")
        done = subprocess.run(
            [programs("pg_dump"), "--version"], env=programs.environment(), capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    said = re.search(r"\(PostgreSQL\) (\d+)\.(\d+)", done.stdout)
    if done.returncode or said is None:
        return None
    return Programs(directory, int(said[1]) * 10_000 + int(said[2]), f"{said[1]}.{said[2]}")


@cache
def _packs_zstd(programs: Programs) -> bool:
    # It refuses the method before it connects, and connecting fails at once.
    done = subprocess.run(
        [programs("pg_dump"), "-Fc", "-Z", "zstd:1", "-d", "host=/nonexistent"],
        env=programs.environment(),
        capture_output=True,
        text=True,
        timeout=10,
    )
    return "/nonexistent" in done.stderr


def command(argv: Sequence[str], *, unprivileged: bool = False) -> list[str]:
    """
    ``argv``, to be run so that it ends when we do, however we end.

    :param unprivileged: PostgreSQL's servers refuse root; as root they run in a user namespace that calls it nobody.
    """
    made = list(argv)
    if setpriv := shutil.which("setpriv"):
        made = [setpriv, "--pdeathsig", "QUIT" if unprivileged else "KILL", "--", *made]
    if unprivileged and os.geteuid() == 0:
        made = ["unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}", *made]
    return made


def run(argv: Sequence[str], env: Mapping[str, str], *, unprivileged: bool = False, **how: Any) -> str:
    """Run to the end. :returns: what it printed. :raises ProgramError: it failed; ends with what it said."""
    done = subprocess.run(
        command(argv, unprivileged=unprivileged), env=dict(env), cwd="/", capture_output=True, text=True, **how
    )
    if done.returncode:
        raise failed(argv[0], done.returncode, (done.stderr or done.stdout).splitlines())
    return str(done.stdout)


def stream(argv: Sequence[str], env: Mapping[str, str]) -> Generator[bytes]:
    """
    What a program writes, as it writes it; it is killed when nobody reads on.

    :raises ProgramError: it failed. Whoever sends the stream on must not call it whole before it has ended.
    """
    process = subprocess.Popen(
        command(argv), env=dict(env), cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    said: deque[str] = deque(maxlen=20)
    listener = threading.Thread(target=_listen, args=(process.stderr, said), daemon=True)
    listener.start()
    try:
        _widen(process.stdout)
        while piece := os.read(process.stdout.fileno(), PIPE):
            yield piece
        code = process.wait()
        listener.join(5)
        if code:
            raise failed(argv[0], code, said)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()


def failed(program: str, code: int, said: Iterable[str]) -> ProgramError:
    lines = [line.strip() for line in said if line.strip()]
    last = redact("; ".join(lines[-4:]))[:800] or "it said nothing"
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    hint = "read what it says; then run the task again: nothing half-done is left."
    for pattern, cure in _CURES.items():
        if re.search(pattern, last):
            hint = cure
    return ProgramError(f"{Path(program).name} {how}: {last}", hint=hint)


_CURES = {
    r"permission denied": "the maintenance role must read everything: run include/sql/postgres/roles.sql; large objects"
    " need their owner or a superuser before PostgreSQL 19.",
    r"row-level security": "give the maintenance role BYPASSRLS: a dump that lacks rows is no backup.",
    r"lock timeout|lock_timeout": "somebody changes tables meanwhile; run the task again when that is over.",
    r"No space left": "make room in `scratch` (include/upkeep.yaml), or name a larger disk.",
}


def _widen(pipe: IO[bytes]) -> None:
    """Room for a megabyte between program and reader, where Linux allows it: fewer changes from one to the other."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE)


def _listen(pipe: IO[bytes], said: deque[str]) -> None:
    with pipe:
        for line in pipe:
            said.append(line.decode(errors="replace"))
