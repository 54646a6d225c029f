"""The first schema."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _json() -> sa.types.TypeEngine[Any]:
    return sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def _job_id(*, cascade: bool = True) -> sa.Column[str]:
    reference = sa.ForeignKey("jobs.id", ondelete="CASCADE" if cascade else None)
    return sa.Column("job_id", sa.String(32), reference, nullable=False)


def upgrade() -> None:
    """Makes all tables."""
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("spec", _json(), nullable=False),
        sa.Column("spec_hash", sa.String(64), nullable=False),
        sa.Column("space_id", sa.String(120)),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("idempotency_key", sa.String(200)),
        sa.Column("parent_id", sa.String(32), sa.ForeignKey("jobs.id", name="fk_jobs_parent_id_jobs")),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double()),
        sa.Column("finished_at", sa.Double()),
        sa.Column("error", sa.Text()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("stalled", sa.Integer(), nullable=False),
        sa.Column("last_crash", sa.Text()),
        sa.Column("lease_owner", sa.String(200)),
        sa.Column("lease_token", sa.Integer(), nullable=False),
        sa.Column("lease_expires_at", sa.Double()),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("last_seq", sa.Integer(), nullable=False),
        sa.Column("point_count", sa.Integer(), nullable=False),
        sa.Column("stages", _json(), nullable=False),
        sa.Column("state", _json(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("idempotency_key", name="uq_jobs_idempotency_key"),
    )
    op.create_index("ix_jobs_kind_created_at_id", "jobs", ["kind", "created_at", "id"])
    op.create_index("ix_jobs_status_created_at", "jobs", ["status", "created_at"])
    op.create_table(
        "events",
        _job_id(),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("body", _json(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "seq", name="pk_events"),
    )
    op.create_table(
        "points",
        _job_id(),
        sa.Column("origin", sa.String(16), nullable=False),
        sa.Column("arch_id", sa.String(16), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("space", sa.String(120), nullable=False),
        sa.Column("genes", _json(), nullable=False),
        sa.Column("metrics", _json(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("claim_ms", sa.Double()),
        sa.Column("measurement", _json()),
        sa.PrimaryKeyConstraint("job_id", "origin", "arch_id", name="pk_points"),
    )
    op.create_index("ix_points_job_id_position", "points", ["job_id", "position"], unique=True)
    op.create_table(
        "artifacts",
        _job_id(),
        sa.Column("arch_id", sa.String(16), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("space", sa.String(120), nullable=False),
        sa.Column("genes", _json(), nullable=False),
        sa.Column("blob", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("media_type", sa.String(120), nullable=False),
        sa.Column("report", _json(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "arch_id", "name", name="pk_artifacts"),
    )
    op.create_table(
        "devices",
        sa.Column("name", sa.String(64), nullable=False),
        _job_id(cascade=False),
        sa.Column("profile_id", sa.String(16)),
        sa.Column("profile", _json()),
        sa.PrimaryKeyConstraint("name", name="pk_devices"),
    )
    op.create_table(
        "predictors",
        sa.Column("id", sa.String(32), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("device", sa.String(64), sa.ForeignKey("devices.name"), nullable=False),
        sa.Column("profile_id", sa.String(16), nullable=False),
        sa.Column("profile", _json(), nullable=False),
        sa.Column("space_id", sa.String(120), nullable=False),
        sa.Column("family", sa.String(64), nullable=False),
        sa.Column("card", _json(), nullable=False),
        sa.Column("blob", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_predictors"),
    )
    op.create_index("ix_predictors_device_space_id_created_at", "predictors", ["device", "space_id", "created_at"])
    op.create_table(
        "workers",
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("owner", name="pk_workers"),
    )


def downgrade() -> None:
    """Drops all tables."""
    for table in ("workers", "predictors", "devices", "artifacts", "points", "events", "jobs"):
        op.drop_table(table)
