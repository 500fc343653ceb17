"""What backups leave behind."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"

TABLES = ""


def upgrade() -> None:
    if TABLES:
        op.execute(TABLES)


def downgrade() -> None:
    """Drop what `upgrade` made."""
