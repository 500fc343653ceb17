"""The nightly and monthly database maintenance of the handbooks, command by command."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

STATEMENTS = ("ANALYZE;", "VACUUM ANALYZE;", "REINDEX DATABASE {database};")
"""maintain_database and reindex_database of the StudySpot handbook; Adaptive Learning's monthly job is the same."""


def maintain(psql: Path, dsn: str, database: str, env: Mapping[str, str]) -> None:
    """As the handbooks do it: one psql per statement."""
    for statement in STATEMENTS:
        subprocess.run(
            [psql, "--quiet", "--dbname", dsn, "--command", statement.format(database=database)],
            env=dict(env), check=True, capture_output=True,
        )  # fmt: skip
