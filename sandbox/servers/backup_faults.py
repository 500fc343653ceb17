"""What can be wrong with backups that were made, and with the worker that makes them."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sandbox.faults import fault
from sandbox.home import Home, SandboxError
from sandbox.servers import s3

BUCKET = "studyspot-backups"
NIGHTS = 4
"""Backups before the newest: fewer tell nobody what is usual."""


def _backups(home: Home, kind: str) -> Path:
    return home.directory(s3.NAME) / BUCKET / kind


def _lost(home: Home, kind: str) -> Path:
    """Beside what the server serves."""
    return home.directory("lost-backups") / kind


def _committed(place: Path) -> Iterator[Path]:
    return (manifest.parent for manifest in sorted(place.glob("*/manifest.json")))


def _newest(home: Home, kind: str) -> Path:
    """:raises SandboxError: nobody has made one yet."""
    found = list(_committed(_backups(home, kind)))
    if not found:
        raise SandboxError(f"StudySpot has no backup of kind {kind} yet\nHINT: run its Dag studyspot_backup first")
    return found[-1]


def _move(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for backup in list(source.iterdir()) if source.is_dir() else []:
        shutil.move(backup, target / backup.name)


def _lose(home: Home) -> None:
    kind = "configuration"
    if not any(_committed(_lost(home, kind))):
        _newest(home, kind)
        _move(_backups(home, kind), _lost(home, kind))


def _find(home: Home) -> None:
    _move(_lost(home, "configuration"), _backups(home, "configuration"))


def _make_history(home: Home) -> None:
    """Copies of the newest backup of the database, three times as large, of the nights before it."""
    if home.facts("backups").get("history"):
        return
    newest = _newest(home, "database")
    manifest = json.loads((newest / "manifest.json").read_text())
    made = []
    for nights in range(1, NIGHTS + 1):
        finished = datetime.fromisoformat(manifest["finished"]) - timedelta(days=nights)
        id = f"{finished:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        made.append(id)
        home.remember("backups", history=made)
        _copy(newest, newest.with_name(id), manifest, finished)


def _copy(source: Path, target: Path, manifest: dict[str, Any], finished: datetime) -> None:
    target.mkdir()
    objects = []
    for one in manifest["objects"]:
        name = one["key"].rpartition("/")[2]
        content = 3 * (source / name).read_bytes()
        (target / name).write_bytes(content)
        key = f"{one['key'].removesuffix(f'{source.name}/{name}')}{target.name}/{name}"
        objects.append({**one, "key": key, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    times = {"started": finished.isoformat(), "finished": finished.isoformat()}
    (target / "manifest.json").write_text(json.dumps({**manifest, **times, "id": target.name, "objects": objects}))


def _forget_history(home: Home) -> None:
    for id in home.facts("backups").get("history", []):
        shutil.rmtree(_backups(home, "database") / id, ignore_errors=True)
    home.remember("backups", history=[])


fault(
    "studyspot_backups_lost",
    "somebody deleted StudySpot's backups of the configuration (there must be one)",
    break_=_lose,
    heal=_find,
)
fault(
    "studyspot_backup_small",
    "StudySpot's newest backup of the database is a third of those before it (there must be one)",
    break_=_make_history,
    heal=_forget_history,
)
fault(
    "adaptive_learning_old_client",
    "the workers have no pg_dump 18, and Adaptive Learning's server is an 18 (unless the machine itself has one)",
    break_=lambda home: home.remember("workers", without_postgres=[18]),
    heal=lambda home: home.remember("workers", without_postgres=[]),
)
