"""Alembic's entry: runs the migrations over the connection that ``upkeep.ledger.migrate`` hands in."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], version_table="upkeep_version")
with context.begin_transaction():
    context.run_migrations()
