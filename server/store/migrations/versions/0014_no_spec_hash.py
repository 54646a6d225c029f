"""Specs are compared as values, so that jobs need no hash of theirs."""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop the hash."""
    op.drop_column("jobs", "spec_hash")


def downgrade() -> None:
    """Compute the hashes."""
    op.add_column("jobs", sa.Column("spec_hash", sa.String(64), nullable=False, server_default=""))
    jobs = sa.table("jobs", sa.column("id", sa.String), sa.column("spec", sa.JSON), sa.column("spec_hash", sa.String))
    for job_id, spec in op.get_bind().execute(sa.select(jobs.c.id, jobs.c.spec)).all():
        digest = hashlib.sha256(json.dumps(spec, sort_keys=True, allow_nan=False).encode()).hexdigest()
        op.execute(jobs.update().where(jobs.c.id == job_id).values(spec_hash=digest))
