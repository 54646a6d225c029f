"""Lifecycle, owners, quotas, tokens and audit."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _json() -> sa.types.TypeEngine[Any]:
    return sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def _big_id() -> sa.types.TypeEngine[Any]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Jobs get owners, priorities and their own accounts; cancelling is a status now."""
    # Columns one by one: copying the table, as SQLite needs for more, would delete what refers to its rows.
    op.add_column("jobs", sa.Column("owner", sa.String(120), nullable=False, server_default="local"))
    op.add_column("jobs", sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("lease_batch", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("busy_seconds", sa.Double(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("busy_until", sa.Double()))
    op.add_column("jobs", sa.Column("resources", _json(), nullable=False, server_default="{}"))
    op.execute("UPDATE jobs SET status = 'cancelled' WHERE cancel_requested AND status IN ('queued', 'running')")
    op.execute("UPDATE jobs SET idempotency_key = owner || '/' || idempotency_key WHERE idempotency_key IS NOT NULL")
    op.drop_column("jobs", "cancel_requested")
    op.create_index("ix_jobs_owner_created_at_id", "jobs", ["owner", "created_at", "id"])
    op.add_column("points", sa.Column("seq", sa.Integer(), nullable=False, server_default="0"))
    op.create_index("ix_points_job_id_seq", "points", ["job_id", "seq"])
    op.add_column("workers", sa.Column("nodes", _json(), nullable=False, server_default="[]"))
    op.add_column("workers", sa.Column("free", _json(), nullable=False, server_default="[]"))
    op.add_column("workers", sa.Column("elastic", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("owner", sa.String(120), nullable=False),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("secret_hash", sa.String(64), nullable=False),
        sa.Column("scopes", _json(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double()),
        sa.Column("revoked_at", sa.Double()),
        sa.Column("last_used_at", sa.Double()),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
    )
    op.create_table(
        "owners",
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("max_queued", sa.Integer()),
        sa.Column("max_running", sa.Integer()),
        sa.Column("gpu_hours", sa.Double()),
        sa.Column("gpu_seconds_deleted", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_owners"),
    )
    op.create_table(
        "audit",
        sa.Column("id", _big_id(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("owner", sa.String(120), nullable=False),
        sa.Column("token_id", sa.String(16)),
        sa.Column("address", sa.String(64)),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("target", sa.String(200), nullable=False),
        sa.Column("detail", _json(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_owner_id", "audit", ["owner", "id"])


def downgrade() -> None:
    """Back to the first schema; tokens, limits and the audit trail are lost."""
    op.drop_table("audit")
    op.drop_table("owners")
    op.drop_table("tokens")
    for column in ("elastic", "free", "nodes"):
        op.drop_column("workers", column)
    op.drop_index("ix_points_job_id_seq", "points")
    op.drop_column("points", "seq")
    op.drop_index("ix_jobs_owner_created_at_id", "jobs")
    op.add_column("jobs", sa.Column("cancel_requested", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute("UPDATE jobs SET idempotency_key = substr(idempotency_key, length(owner) + 2)")
    for column in ("resources", "busy_until", "busy_seconds", "lease_batch", "priority", "owner"):
        op.drop_column("jobs", column)
