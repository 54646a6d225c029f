"""Cascades of the exported models of searches, as jobs of their own kind."""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """No cascade exists before."""


def downgrade() -> None:
    """Cascades are lost: older versions do not know jobs of their kind."""
    op.execute("DELETE FROM events WHERE job_id IN (SELECT id FROM jobs WHERE kind = 'cascade')")
    op.execute("DELETE FROM jobs WHERE kind = 'cascade'")
