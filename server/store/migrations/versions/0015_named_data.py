"""Data sets that owners have added by a name."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def _json() -> sa.types.TypeEngine[Any]:
    return sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    """No data set has a name before."""
    op.create_table(
        "named_data",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(120), nullable=False),
        sa.Column("spec", _json(), nullable=False),
        sa.Column("added_at", sa.Double(), nullable=False),
        sa.Column("checked_at", sa.Double(), nullable=False),
        sa.Column("shape", _json(), nullable=False),
        sa.Column("account", _json()),
        sa.Column("incomplete", sa.Text(), nullable=False),
        sa.Column("samples", sa.String(64)),
        sa.PrimaryKeyConstraint("name", name="pk_named_data"),
    )


def downgrade() -> None:
    """The names are lost; the specs of searches hold the paths that they stood for."""
    op.drop_table("named_data")
