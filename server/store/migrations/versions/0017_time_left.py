"""What the stages of searches take, as dry runs and earlier searches of the same work have shown; and what agents take
for a measurement, by which an onboarding with a time limit ends."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """No price and no time of a measurement is known before."""
    op.create_table(
        "stage_prices",
        sa.Column("owner", sa.String(120), nullable=False),
        sa.Column("work", sa.String(64), nullable=False),
        sa.Column("seconds", sa.JSON().with_variant(JSONB(), "postgresql"), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "work", name="pk_stage_prices"),
    )
    op.add_column("measurements", sa.Column("seconds", sa.Double(), nullable=True))
    op.create_index("ix_stage_prices_at", "stage_prices", ["at"])


def downgrade() -> None:
    """Searches tell the time left of their running stage alone, and onboardings with an agent have no time limit."""
    op.drop_column("measurements", "seconds")
    op.drop_table("stage_prices")
