"""Who writes to the ledger."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg.rows import DictRow

Connection = psycopg.Connection[DictRow]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One task of one Dag run."""

    platform: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    try_number: int = 1
    log_url: str = ""
    run_url: str = ""
