"""An Airflow secrets backend that reads the sandbox's connections from the file that the servers keep up to date.

Airflow's own LocalFilesystemBackend would do, but it imports Airflow's database models into every task.
"""

from __future__ import annotations

import json
from pathlib import Path

from airflow.secrets.base_secrets import BaseSecretsBackend


class ConnectionsFile(BaseSecretsBackend):
    """``{"conn_id": {"conn_type": ...}}`` in ``path``, read anew each time."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = Path(path)

    def get_conn_value(self, conn_id: str, team_name: str | None = None) -> str | None:
        found = json.loads(self.path.read_text()).get(conn_id)
        return json.dumps(found) if found else None
