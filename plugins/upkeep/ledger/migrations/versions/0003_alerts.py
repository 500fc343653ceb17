"""What telling people remembers."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

TABLES = ""


def upgrade() -> None:
    if TABLES:
        op.execute(TABLES)


def downgrade() -> None:
    """Drop what `upgrade` made."""
