"""Backups of whole clusters are on record like all others."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"

KINDS = """
alter table backups drop constraint backups_kind_check;
alter table backups add constraint backups_kind_check
    check (kind in ('database', 'files', 'configuration', 'cluster'));
"""


def upgrade() -> None:
    op.execute(KINDS)


def downgrade() -> None:
    """What base backups are on record is forgotten; they themselves stay."""
    op.execute("delete from backups where kind = 'cluster'")
    op.execute(KINDS.replace(", 'cluster'", ""))
