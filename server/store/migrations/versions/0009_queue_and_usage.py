"""Indexes of the queue, delayed attempts, and the usage of owners as sums."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def _json() -> sa.types.TypeEngine[Any]:
    return sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def _jobs() -> sa.TableClause:
    names = ("owner", "kind", "last_seq", "point_count", "busy_seconds")
    return sa.table("jobs", *map(sa.column, names), sa.column("resources", _json()))


def upgrade() -> None:
    """What present jobs have used, and the GPU time of deleted ones, become the first sums."""
    op.add_column("jobs", sa.Column("available_at", sa.Double()))
    # PostgreSQL stores such a column, SQLite can only add one that it does not store.
    ascending = sa.Computed("-priority", persisted=op.get_bind().dialect.name == "postgresql")
    op.add_column("jobs", sa.Column("precedence", sa.Integer(), ascending, nullable=False))
    op.add_column("jobs", sa.Column("expired_token", sa.Integer()))
    op.drop_index("ix_jobs_status_created_at", "jobs")
    op.create_index("ix_jobs_kind_status_created_at", "jobs", ["kind", "status", "created_at"])
    op.create_index("ix_jobs_parent_id", "jobs", ["parent_id"])
    op.create_index("ix_jobs_queue", "jobs", ["status", "owner", "precedence", "created_at", "id", "kind"])
    op.create_index("ix_measurements_status_job_id", "measurements", ["status", "job_id"])
    usage = op.create_table(
        "usage",
        sa.Column("owner", sa.String(120), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("evaluations", sa.BigInteger(), nullable=False),
        sa.Column("busy_seconds", sa.Double(), nullable=False),
        sa.Column("gpu_seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "shard", name="pk_usage"),
    )
    op.bulk_insert(usage, _first_sums())
    op.drop_column("owners", "gpu_seconds_deleted")


def _sums() -> dict[str, dict[str, Any]]:
    """By owner, what the present jobs have used."""
    jobs = _jobs()
    gpus = sa.func.coalesce(jobs.c.resources["gpus"].as_float(), 0)
    sums = sa.select(
        jobs.c.owner,
        sa.literal(0).label("shard"),
        sa.func.sum(jobs.c.last_seq).label("events"),
        sa.func.sum(sa.case((jobs.c.kind == "search", jobs.c.point_count), else_=0)).label("evaluations"),
        sa.func.sum(jobs.c.busy_seconds).label("busy_seconds"),
        sa.func.sum(jobs.c.busy_seconds * gpus).label("gpu_seconds"),
    ).group_by(jobs.c.owner)
    return {row.owner: dict(row._mapping) for row in op.get_bind().execute(sums)}


def _first_sums() -> list[dict[str, Any]]:
    sums = _sums()
    owners = sa.table("owners", sa.column("name"), sa.column("gpu_seconds_deleted"))
    for name, seconds in op.get_bind().execute(sa.select(owners.c.name, owners.c.gpu_seconds_deleted)):
        unused = {"owner": name, "shard": 0, "events": 0, "evaluations": 0, "busy_seconds": 0.0, "gpu_seconds": 0.0}
        sums.setdefault(name, unused)["gpu_seconds"] += seconds
    return list(sums.values())


def downgrade() -> None:
    """Of deleted jobs, the GPU time alone is kept."""
    op.add_column("owners", sa.Column("gpu_seconds_deleted", sa.Double(), nullable=False, server_default="0"))
    present = {owner: row["gpu_seconds"] for owner, row in _sums().items()}
    usage = sa.table("usage", sa.column("owner"), sa.column("gpu_seconds"))
    owners = sa.table("owners", sa.column("name"), sa.column("gpu_seconds_deleted"))
    used = sa.select(usage.c.owner, sa.func.sum(usage.c.gpu_seconds)).group_by(usage.c.owner)
    names = set(op.get_bind().execute(sa.select(owners.c.name)).scalars())
    for owner, seconds in op.get_bind().execute(used).all():
        deleted = max(0.0, seconds - present.get(owner, 0.0))
        if owner in names:
            op.execute(owners.update().where(owners.c.name == owner).values(gpu_seconds_deleted=deleted))
        elif deleted > 0:
            op.execute(owners.insert().values(name=owner, gpu_seconds_deleted=deleted))
    op.drop_table("usage")
    op.drop_index("ix_measurements_status_job_id", "measurements")
    op.drop_index("ix_jobs_queue", "jobs")
    op.drop_index("ix_jobs_parent_id", "jobs")
    op.drop_index("ix_jobs_kind_status_created_at", "jobs")
    op.create_index("ix_jobs_status_created_at", "jobs", ["status", "created_at"])
    op.drop_column("jobs", "precedence")
    op.drop_column("jobs", "expired_token")
    op.drop_column("jobs", "available_at")
