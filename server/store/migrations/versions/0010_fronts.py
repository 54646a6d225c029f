"""Fronts and hypervolumes as rows.

The fronts of present searches, and the counts of their candidates, are computed after all migrations, by
``rebuild_fronts`` of ``server.store.fronts``, which fits the newest schema alone.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_COUNTS = ("evaluations", "extrapolated", "extrapolated_measured")


def _json() -> sa.types.TypeEngine[Any]:
    return sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def _of_job(table: str) -> tuple[sa.schema.SchemaItem, ...]:
    reference = sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=f"fk_{table}_job_id_jobs", ondelete="CASCADE")
    device = sa.Column("device", sa.String(64), nullable=False)
    return sa.Column("job_id", sa.String(32), nullable=False), device, reference


def upgrade() -> None:
    """Hypervolumes move out of the states of searches."""
    op.create_table(
        "fronts",
        *_of_job("fronts"),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("verified", sa.Integer(), nullable=False),
        sa.Column("hypervolume", sa.Double()),
        sa.Column("baseline_hypervolume", sa.Double()),
        sa.Column("final", sa.Boolean(), nullable=False),
        sa.Column("measured", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "device", name="pk_fronts"),
    )
    op.create_table(
        "front_members",
        *_of_job("front_members"),
        sa.Column("origin", sa.String(16), nullable=False),
        sa.Column("arch_id", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "device", "origin", "arch_id", name="pk_front_members"),
    )
    hypervolumes = op.create_table(
        "hypervolumes",
        *_of_job("hypervolumes"),
        sa.Column("evaluations", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("search", sa.Double(), nullable=False),
        sa.Column("baseline", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "device", "evaluations", name="pk_hypervolumes"),
    )
    for name in _COUNTS:
        op.add_column("jobs", sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
    jobs = _jobs()
    for job_id, state in op.get_bind().execute(sa.select(jobs.c.id, jobs.c.state)).all():
        if "hypervolume" in (state or {}):
            rows = [_row(job_id, seq, record) for seq, record in enumerate(state.pop("hypervolume"))]
            op.bulk_insert(hypervolumes, rows)
            op.execute(jobs.update().where(jobs.c.id == job_id).values(state=state))


def _jobs() -> sa.TableClause:
    return sa.table("jobs", sa.column("id", sa.String), sa.column("state", _json()))


def _row(job_id: str, seq: int, record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "job_id": job_id, "seq": seq, "device": record.get("device") or ""}


def downgrade() -> None:
    """Fronts are computed when they are read."""
    jobs = _jobs()
    columns = ("job_id", "device", "evaluations", "seq", "search", "baseline")
    table = sa.table("hypervolumes", *map(sa.column, columns))
    history: dict[str, list[dict[str, Any]]] = {}
    for row in op.get_bind().execute(sa.select(table).order_by(table.c.seq)):
        record = {name: getattr(row, name) for name in ("evaluations", "search", "baseline")}
        history.setdefault(row.job_id, []).append({**record, "device": row.device or None})
    for job_id, state in op.get_bind().execute(sa.select(jobs.c.id, jobs.c.state)).all():
        if state:
            state = {**state, "hypervolume": history.get(job_id, [])}
            op.execute(jobs.update().where(jobs.c.id == job_id).values(state=state))
    for name in _COUNTS:
        op.drop_column("jobs", name)
    for name in ("hypervolumes", "front_members", "fronts"):
        op.drop_table(name)
