"""What caring for PostgreSQL remembers: index baselines, deletions."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

INDEXES = """
"""

DELETIONS = """
"""


def upgrade() -> None:
    for tables in (INDEXES, DELETIONS):
        if tables.strip():
            op.execute(tables)


def downgrade() -> None:
    """Drop what `upgrade` made."""
