"""Owners of devices, sessions of the dashboard, tokens of agents, and when a dry run last went before other jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A device belongs to the owner who added it first: others may have replaced it since."""
    op.add_column("devices", sa.Column("owner", sa.String(120), nullable=False, server_default="local"))
    op.execute(
        "UPDATE devices SET owner = (SELECT jobs.owner FROM jobs WHERE jobs.kind = 'device'"
        " AND jobs.name = devices.name ORDER BY jobs.created_at, jobs.id LIMIT 1)"
    )
    op.add_column("tokens", sa.Column("device", sa.String(64)))
    op.create_table(
        "urgent_claims",
        sa.Column("owner", sa.String(120), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("owner", name="pk_urgent_claims"),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("token_id", sa.String(16), nullable=False),
        sa.Column("secret_hash", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["token_id"], ["tokens.id"], name="fk_sessions_token_id_tokens"),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
    )


def downgrade() -> None:
    """Readers of the dashboard log in again. Tokens of agents are revoked: older versions know no such scope."""
    op.drop_table("sessions")
    op.drop_table("urgent_claims")
    op.execute("UPDATE tokens SET revoked_at = created_at WHERE device IS NOT NULL AND revoked_at IS NULL")
    op.drop_column("tokens", "device")
    op.drop_column("devices", "owner")
