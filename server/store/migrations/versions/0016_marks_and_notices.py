"""Stars and notes on searches and on their candidates; notices of ended searches, for webhooks."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing is marked or due before."""
    op.create_table(
        "marks",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("arch_id", sa.String(16), nullable=False),
        sa.Column("starred", sa.Boolean(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("owner", sa.String(120), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_marks_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "arch_id", name="pk_marks"),
    )
    op.create_table(
        "notices",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_notices_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "seq", name="pk_notices"),
    )
    op.create_index("ix_notices_next_at", "notices", ["next_at"])


def downgrade() -> None:
    """Stars and notes are lost, and so is what webhooks were not told yet."""
    op.drop_table("notices")
    op.drop_table("marks")
