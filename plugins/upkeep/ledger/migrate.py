"""Bringing the ledger's tables up to date, with alembic."""

from __future__ import annotations

from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, pool, text
from sqlalchemy.exc import OperationalError

from upkeep.ledger.store import unreachable

SCRIPTS = Path(__file__).parent / "migrations"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    return config


def newest() -> str:
    """The revision this code is written for."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def migrate(conninfo: str) -> str:
    """
    Create or upgrade the tables; return the revision. Two at once: the second waits for the first.

    :raises LedgerError: the server cannot be reached.
    """
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(conninfo), poolclass=pool.NullPool)
    try:
        with engine.begin() as connection:
            connection.execute(text("select pg_advisory_xact_lock(hashtext('upkeep.ledger.migrate'))"))
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except (OperationalError, psycopg.OperationalError) as down:
        raise unreachable(down) from None
    return newest()
