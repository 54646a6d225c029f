"""Models of users, each with the job that has taken it in."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def _json() -> sa.types.TypeEngine[Any]:
    return sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    """No model exists before."""
    op.create_table(
        "user_models",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(120), nullable=False),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("graph", sa.String(64)),
        sa.Column("weights", sa.String(64)),
        sa.Column("report", sa.String(64)),
        sa.Column("summary", _json()),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_user_models_job_id_jobs"),
        sa.PrimaryKeyConstraint("name", name="pk_user_models"),
    )


def downgrade() -> None:
    """Models are lost, and so are the jobs that took them in, which older versions do not know."""
    op.drop_table("user_models")
    op.execute("DELETE FROM events WHERE job_id IN (SELECT id FROM jobs WHERE kind = 'model')")
    op.execute("DELETE FROM measurements WHERE job_id IN (SELECT id FROM jobs WHERE kind = 'model')")
    op.execute("DELETE FROM jobs WHERE kind = 'model'")
