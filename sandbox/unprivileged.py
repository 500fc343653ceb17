"""Running server programs that refuse to run as root.

As another user they are simply run. As root there are two ways: inside a user namespace that calls root ``nobody``
(works below a private directory, and files stay ours outside), and, where user namespaces are forbidden, as
``nobody`` for real, with programs and data where ``nobody`` can reach them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from sandbox.home import Home, SandboxError

NOBODY = 65534
"""``initdb`` refuses a uid without an entry in the user database; this one always has one."""

_NAMESPACE = ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}")


@dataclass(frozen=True)
class Unprivileged:
    """How to run a program, and where its files go."""

    prefix: tuple[str, ...] = ()
    """Goes before the program's own arguments."""

    popen: dict[str, Any] = field(default_factory=dict)
    """Goes to ``subprocess``."""

    owner: int | None = None
    """Whom files must belong to; None for ourselves."""

    base: Path | None = None
    """Where directories are made that the program must reach; None for the sandbox's own."""

    def directory(self, home: Home, name: str) -> Path:
        """A private directory that the program can use as its own."""
        made = (self.base or home.path) / name
        made.mkdir(parents=True, exist_ok=True)
        made.chmod(0o700)
        self.give(made)
        return made

    def give(self, path: Path) -> None:
        if self.owner is not None:
            os.chown(path, self.owner, self.owner)

    def reachable(self, tree: Path) -> Path:
        """``tree``, or its copy where the program's user can read it, with the libraries a wheel keeps beside it."""
        if self.base is None or others_may_enter(tree):
            return tree
        programs = self.base / "programs"
        for part in (tree.with_name(tree.name + ".libs"), tree):
            if part.exists() and not (programs / part.name).exists():
                draft = programs / f"{part.name}.draft.{os.getpid()}"
                shutil.copytree(part, draft, symlinks=True)
                draft.rename(programs / part.name)
        return programs / tree.name

    def run(self, argv: Sequence[str | os.PathLike[str]], *, env: dict[str, str] | None = None) -> None:
        """Run to the end. :raises SandboxError: it failed; ends with what it said."""
        done = subprocess.run(
            [*self.prefix, *(str(part) for part in argv)],
            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            **self.popen,
        )
        if done.returncode:
            raise SandboxError(
                f"{Path(argv[0]).name} ended with {done.returncode}:\n{(done.stderr or done.stdout).strip()}"
            )


def unprivileged(home: Home) -> Unprivileged:
    """The way that works here; ``facts("sandbox")["namespaces"] = False`` chooses the last one."""
    if os.geteuid() != 0:
        return Unprivileged()
    if home.facts("sandbox").get("namespaces", True) and _namespaces_work():
        return Unprivileged(prefix=_NAMESPACE)
    return Unprivileged(
        popen={"user": NOBODY, "group": NOBODY, "extra_groups": []}, owner=NOBODY, base=_reachable_base(home)
    )


@cache
def _namespaces_work() -> bool:
    try:
        return subprocess.run([*_NAMESPACE, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def _reachable_base(home: Home) -> Path:
    home.path.mkdir(parents=True, exist_ok=True)
    if others_may_enter(home.path):
        return home.path
    base = Path(tempfile.gettempdir()) / f"upkeep-{hashlib.sha256(str(home.path).encode()).hexdigest()[:12]}"
    base.mkdir(mode=0o711, exist_ok=True)
    # The name can be guessed and the directory is shared with everybody: somebody else's must not be used.
    if base.is_symlink() or base.stat().st_uid != os.geteuid():
        raise SandboxError(
            f"{base} belongs to somebody else\nHINT: remove it, or set TMPDIR to a directory of your own."
        )
    return base


def others_may_enter(path: Path) -> bool:
    """Whether any user can reach ``path``: each directory on the way must let others through."""
    return all(part.stat().st_mode & 0o001 for part in (path, *path.parents))
