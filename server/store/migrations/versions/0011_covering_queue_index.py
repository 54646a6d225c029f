"""The index of the queue holds all that claims and positions read of waiting jobs.

SQLite reads the rows, too, where an index has a generated column, so the precedence becomes a plain one.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_QUEUE = ["status", "owner", "precedence", "created_at", "id", "kind"]


def upgrade() -> None:
    """The precedence is as before."""
    op.drop_index("ix_jobs_queue", "jobs")
    op.drop_column("jobs", "precedence")
    op.add_column("jobs", sa.Column("precedence", sa.Integer(), nullable=False, server_default="0"))
    op.execute("UPDATE jobs SET precedence = -priority WHERE priority <> 0")
    op.create_index("ix_jobs_queue", "jobs", [*_QUEUE, "available_at"])


def downgrade() -> None:
    """The precedence is generated again."""
    op.drop_index("ix_jobs_queue", "jobs")
    op.drop_column("jobs", "precedence")
    ascending = sa.Computed("-priority", persisted=op.get_bind().dialect.name == "postgresql")
    op.add_column("jobs", sa.Column("precedence", sa.Integer(), ascending, nullable=False))
    op.create_index("ix_jobs_queue", "jobs", _QUEUE)
