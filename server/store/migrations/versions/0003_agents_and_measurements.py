"""Device agents, and what they are to measure."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _json() -> sa.types.TypeEngine[Any]:
    return sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    """Two new tables; a dispatcher says what machine it is on."""
    op.add_column("workers", sa.Column("machine", _json()))
    op.create_table(
        "agents",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(120), nullable=False),
        sa.Column("instance", sa.String(64), nullable=False),
        sa.Column("profile_id", sa.String(16), nullable=False),
        sa.Column("profile", _json(), nullable=False),
        sa.Column("versions", _json(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_agents"),
    )
    op.create_table(
        "measurements",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("network", sa.String(64), nullable=False),
        sa.Column("protocol", sa.String(16), nullable=False),
        sa.Column("profile", _json(), nullable=False),
        sa.Column("blob", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease_token", sa.String(32)),
        sa.Column("lease_instance", sa.String(64)),
        sa.Column("lease_expires_at", sa.Double()),
        sa.Column("result", _json()),
        sa.Column("raw", _json()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_measurements_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_measurements"),
        sa.UniqueConstraint("job_id", "network", "protocol", name="uq_measurements_job_id_network_protocol"),
    )
    op.create_index("ix_measurements_device_status", "measurements", ["device", "status"])


def downgrade() -> None:
    """What agents have measured for jobs under way is lost; they would be asked again."""
    op.drop_table("measurements")
    op.drop_table("agents")
    op.drop_column("workers", "machine")
