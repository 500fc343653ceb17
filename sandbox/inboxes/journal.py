"""What arrived, on disk: one JSON line per request, script or reset, so that a restart forgets nothing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """
    Append-only; every line is one of::

        {"event": {...}}        a request: see sandbox.inboxes.server.Inboxes.receive
        {"script": {...}}       misbehaviour was asked for
        {"unscript": name}      and ended; null ends all
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and (written := file.read_bytes()) and not written.endswith(b"\n"):
            # Killed while writing: the next line must not be glued to half of the last.
            self.file.write_bytes(written + b"\n")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self.file.exists():
            return
        for line in self.file.read_text().splitlines():
            # Half a line, see above.
            with contextlib.suppress(ValueError):
                yield json.loads(line)

    def write(self, **line: Any) -> None:
        with self.file.open("a") as output:
            output.write(json.dumps(line) + "\n")

    def clear(self) -> None:
        self.file.write_text("")
