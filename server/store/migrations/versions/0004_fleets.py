"""Searches over several devices: what is known of a network on each, and each measures it."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_OLD, _NEW = "uq_measurements_job_id_network_protocol", "uq_measurements_job_id_device_network_protocol"


def _json() -> sa.types.TypeEngine[Any]:
    return sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    """One column more, and the device among what makes a task unique."""
    op.add_column("points", sa.Column("devices", _json()))
    with op.batch_alter_table("measurements") as table:
        table.drop_constraint(_OLD, type_="unique")
        table.create_unique_constraint(_NEW, ["job_id", "device", "network", "protocol"])


def downgrade() -> None:
    """What was known of single devices is lost; of the tasks of several devices the oldest is kept."""
    op.execute(
        "DELETE FROM measurements WHERE EXISTS (SELECT 1 FROM measurements AS older WHERE older.job_id ="
        " measurements.job_id AND older.network = measurements.network AND older.protocol = measurements.protocol AND"
        " (older.created_at, older.id) < (measurements.created_at, measurements.id))"
    )
    with op.batch_alter_table("measurements") as table:
        table.drop_constraint(_NEW, type_="unique")
        table.create_unique_constraint(_OLD, ["job_id", "network", "protocol"])
    op.drop_column("points", "devices")
