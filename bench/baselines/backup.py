"""Backup and restore as the StudySpot handbook's scripts do them, command by command."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def back_up(client: Any, pg_dump: str, url: str, env: Mapping[str, str], place: Path, bucket: str, key: str) -> None:
    """Dump to a file, compress it, upload it, remove it; the upload by what ``aws s3 cp`` is made of."""
    file = place / "studyspot_db.sql"
    subprocess.run(f"'{pg_dump}' '{url}' > '{file}'", shell=True, env=dict(env), check=True)
    subprocess.run(["gzip", "-f", file], check=True)
    client.upload_file(f"{file}.gz", bucket, key)
    Path(f"{file}.gz").unlink()


def restore(client: Any, psql: str, url: str, env: Mapping[str, str], place: Path, bucket: str, key: str) -> None:
    """Download, decompress and load; without the plain file in between, which only costs time."""
    file = place / "studyspot_db.sql.gz"
    client.download_file(bucket, key, str(file))
    subprocess.run(
        f"gunzip -c '{file}' | '{psql}' -X -q '{url}' > /dev/null 2>&1", shell=True, env=dict(env), check=True
    )
    file.unlink()
