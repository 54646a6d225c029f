"""Whether candidates lie outside the domain of the latency predictor."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Of earlier candidates it is not known."""
    op.add_column("points", sa.Column("extrapolated", sa.Boolean()))


def downgrade() -> None:
    """The flags are lost."""
    op.drop_column("points", "extrapolated")
