"""The file trees of the platform's hosts: whether this machine sees them, and may delete there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from upkeep.doctor.verdict import fine, missing
from upkeep.findings import Outcome
from upkeep.platforms.hosts import Hosts


def look(settings: Hosts, host_root: str) -> Iterator[Outcome]:
    """:param host_root: where the hosts' trees begin here. It speaks for this machine, and workers may be others."""
    for path in dict.fromkeys([tree.path for tree in settings.logs] + [tree.path for tree in settings.temporary]):
        seen = Path(host_root) / path.lstrip("/")
        if not seen.is_dir():
            cure = "mount it into the workers, set `host_root` in include/upkeep.yaml, or correct `hosts`"
            yield missing("hosts", path, f"{seen} is no directory on this machine", cure)
        elif not os.access(seen, os.R_OK | os.W_OK | os.X_OK):
            yield missing(
                "hosts", path, f"{seen} may not be read and written by us", f"setfacl -R -m u:$(id -un):rwX {seen}"
            )
        else:
            yield fine("hosts", path, f"{seen} may be read and written")
